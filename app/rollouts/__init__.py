"""Rollouts: a canary goes to all traffic in stages, or back to none, each decision with its proof."""
