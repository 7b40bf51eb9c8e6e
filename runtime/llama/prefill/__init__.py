"""Contexts that read prompts beside the main one, and the thread that does it."""
