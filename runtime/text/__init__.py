"""From token bytes to the text deltas of an answer, and from a conversation to a prompt."""
