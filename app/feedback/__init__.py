"""What happened next: signals accepted durably, then entered once into the ledger."""
