"""The Wald server: one package per feature, listed with their import order in ARCHITECTURE.md."""
