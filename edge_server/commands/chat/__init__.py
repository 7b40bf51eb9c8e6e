"""The chat: reading messages, /commands, the conversation."""
