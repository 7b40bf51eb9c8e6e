"""Answers that a client can resume after its connection broke.

Each event is recorded before any reader sees it. A reader is only a cursor, so slow, late or lost
readers cost no memory and delay no answer. Knows no engine and no dialect: an encoder supplies the
bytes of events.
"""
