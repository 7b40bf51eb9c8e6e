"""The text kit: bytes to characters, tags, Markdown, JSON, sentences, languages. Pure."""
