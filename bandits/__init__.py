"""Bandit policies as pure functions: totals in, allocation out; the caller owns chance."""
