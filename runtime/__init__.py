"""Local engines: load a quantized model in a worker process and stream tokens from it.

Knows nothing of HTTP, JSON or the cloud.
"""
