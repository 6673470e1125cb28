"""The Wald server: one package per feature, listed with their import order in ARCHITECTURE.md."""

__version__ = "0.1.0"
