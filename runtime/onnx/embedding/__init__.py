"""Graphs that turn texts into vectors or scores: encoders, and decoders without an output head."""
