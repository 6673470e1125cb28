"""Counts of signals by what became of them."""
