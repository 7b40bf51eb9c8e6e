"""Converts GGUF files for ONNX Runtime, and compares the two engines on this device."""
