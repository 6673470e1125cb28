"""The step that adds differences of rewards to the totals."""
