"""One ONNX model behind the Backend protocol, on ONNX Runtime."""
