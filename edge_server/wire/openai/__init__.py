"""OpenAI's dialects."""
