"""The parent's side of a worker: starts it, gives it requests, watches it, and starts the next one
when it has died.

Knows the worker by its messages only, and nothing of the code that runs in it.
"""
