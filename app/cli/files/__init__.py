"""Files that commands read."""
