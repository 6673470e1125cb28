"""Benchmarks: each figure stands beside a reference that the same run measures."""
