"""Several models of one process: loaded when somebody needs them, as far as memory allows.

Knows local engines, and neither names of requests nor the cloud.
"""
