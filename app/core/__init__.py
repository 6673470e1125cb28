"""Base of every room: errors, limits, settings, engines and loops."""
