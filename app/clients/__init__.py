"""Programs that talk to a server over HTTP only: the demo and the replay of logged scores."""
