"""The ledger: one transaction takes a batch of events into the log and into all that follows from it."""
