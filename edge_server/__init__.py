"""The local endpoint: configuration, command line, HTTP, SSE.

Knows neither llama.cpp nor ONNX Runtime.
"""
