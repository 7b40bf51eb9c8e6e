"""Files on this device that processes share: values kept as JSON, digests of weights.

Knows nothing of models or requests.
"""
