"""Quantizes the matrices of a graph with what they multiply: the inputs of a calibration text."""
