"""Tool calls in the text of a model: what the templates are given, what the answers mean."""
