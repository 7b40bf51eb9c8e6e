"""Exports weights from safetensors or GGUF to an ONNX graph, without torch."""
