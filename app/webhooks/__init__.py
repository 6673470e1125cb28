"""Telling other systems: outbox, signing, delivery, redelivery (Standard Webhooks 1.0.0)."""
