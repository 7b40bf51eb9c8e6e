"""Ways to run a loaded ONNX session over the sequences of a batch."""
