"""API keys with scopes, and the secrets that sign assignment ids."""
