"""Who may call: API keys with scopes, and the secrets that sign assignment ids."""
