"""What is done at each path."""
