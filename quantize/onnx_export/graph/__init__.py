"""A decoder as an ONNX graph: its layers, what goes in and comes out, and where its weights are."""
