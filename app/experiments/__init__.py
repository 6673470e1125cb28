"""Experiments: definitions, their life cycle and what may change in each state."""
