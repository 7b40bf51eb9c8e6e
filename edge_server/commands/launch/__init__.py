"""spillover launch: starts another program so that it asks this endpoint. No file of it changes."""
