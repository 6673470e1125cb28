"""The kinds of judges: what each version is, and how it scores a response."""
