"""What a request is let in with: a key, a token, a signature."""
