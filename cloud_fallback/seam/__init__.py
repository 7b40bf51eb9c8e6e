"""Joins the text of a new writer to what was already said. Pure."""
