"""Answers that a client can take up again after its connection broke.

Each event is recorded before anybody sees it. A reader is a cursor and nothing else, so that slow,
late or lost readers cost no memory and hold up no answer. Knows no engine and no dialect: an
encoder gives it the bytes of events.
"""
