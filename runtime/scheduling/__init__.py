"""Continuous batching: sequences, the KV cache, slices of prompts, and the loop that runs them.

Knows a backend by its Protocol only; nothing of processes or HTTP.
"""
