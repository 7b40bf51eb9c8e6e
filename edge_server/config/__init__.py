"""Settings: their names, types, layers and tables."""
