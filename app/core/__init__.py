"""What every feature stands on: errors, limits, settings, engines and loops."""
