"""The route of one answer between its writers: local model, cloud providers, local model again."""
