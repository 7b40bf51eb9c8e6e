"""Compares models with a reference: what they predict, and what they cost."""
