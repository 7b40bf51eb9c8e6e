"""Answers on their way: generations, the logs of their events, and what goes to a client.

Knows the dialects' encoders by their contract only, and no HTTP server.
"""
