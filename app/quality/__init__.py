"""One quality number per variant, from judges on many responses and people on few."""
