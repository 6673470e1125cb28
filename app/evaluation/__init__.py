"""What another policy would have earned on an experiment's own traffic."""
