"""Reads a GGUF file as the source of an export."""
