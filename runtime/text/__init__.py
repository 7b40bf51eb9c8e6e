"""The text kit: chat templates, token bytes to text deltas, tags, Markdown, JSON, languages."""
