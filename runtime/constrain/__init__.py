"""Answers that must have a form: which tokens may come next. Knows no model library."""
