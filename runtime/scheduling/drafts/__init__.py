"""What may follow in a stream, how often that was right, and what it costs to check it."""
