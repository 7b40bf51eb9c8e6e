"""Conversions of GGUF files for ONNX Runtime: what is kept of them, and which engine serves a file.

It reads what is there. Only `quantize.conversion` makes conversions and measures.
"""
