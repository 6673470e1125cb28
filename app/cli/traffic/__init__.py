"""Simulated and replayed traffic for a running server."""
