"""Answers that a client can take up again after its connection broke.

The stream is written down event by event before anybody sees it; whoever reads it has a cursor and
nothing else, so that nobody who is slow, late or gone costs memory or holds up the answer. It knows
nothing of engines and dialects: an encoder gives it the events' bytes.
"""
