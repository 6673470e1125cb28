"""Allocation: turns totals into the shares that requests draw from, and publishes them."""
