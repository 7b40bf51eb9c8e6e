"""Writes GGUF files from Hugging Face folders, without PyTorch."""
