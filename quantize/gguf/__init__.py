"""Quantizes GGUF files with llama.cpp, whose calls run in child processes."""
