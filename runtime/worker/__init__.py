"""The process that owns a loaded model, and its supervision by the parent."""
