"""Learning: what policies learn beyond the reward totals."""
