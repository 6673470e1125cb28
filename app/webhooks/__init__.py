"""Webhooks (Standard Webhooks 1.0.0): outbox, signatures, delivery and redelivery."""
