"""First step: store what is new of assignments and signals."""
