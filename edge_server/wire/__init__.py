"""Dialects: JSON becomes typed requests and events become bytes, here and nowhere else."""
