"""The ledger: one transaction logs a batch of events and updates every total that depends on it."""
