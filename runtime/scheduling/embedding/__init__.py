"""Embeddings in the loop: beside answers, and of models that make nothing else."""
