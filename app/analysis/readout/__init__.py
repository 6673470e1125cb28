"""The readout: what an experiment says now, and what to do about it."""
