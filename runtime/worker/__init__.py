"""The process that owns a loaded model, and what it and its parent say to each other."""
