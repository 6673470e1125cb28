"""Responses: what the product showed for an assignment, accepted, stored, redacted and expired."""
