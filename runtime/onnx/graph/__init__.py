"""ONNX graphs as data: the layout of a file, what can run, and how attention is rewritten."""
