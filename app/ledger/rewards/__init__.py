"""Second step: from signals to rewards, and from rewards to differences of totals."""
