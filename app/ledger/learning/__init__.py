"""Fourth step: what policies learn besides the reward totals."""
