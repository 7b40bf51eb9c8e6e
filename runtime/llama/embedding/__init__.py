"""Vectors and scores on llama.cpp: what a file is made for, and a context that computes them."""
