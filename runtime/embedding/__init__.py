"""Vectors and scores of texts: jobs, and how they share the calls of a model. Knows no library."""
