"""Calculators for what has not begun: they read no engine."""
