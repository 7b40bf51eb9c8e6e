"""Cloud providers: who they are, their keys, and one engine that streams from any of them."""
