"""Reads a Hugging Face folder as the source of an export."""
