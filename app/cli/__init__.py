"""The command `wald`: one file per family of commands."""
