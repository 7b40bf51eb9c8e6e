"""What a KV cache holds: sequences that run, those that are kept for the next turn, and the states
that were saved elsewhere.

Knows a backend by its Protocol only; nothing of scheduling or processes.
"""
