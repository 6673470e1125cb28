"""Intake of feedback: decodes and validates signals, and appends them to the streams."""
