"""Commands that quantize models."""
