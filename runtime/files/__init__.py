"""Files on this device that processes share: values kept as JSON, locks, digests of weights.

Knows nothing of models or requests.
"""
