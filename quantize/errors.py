"""The error of work on model files that cannot be done.

QuantizeError
"""

from __future__ import annotations

from spillover.runtime.errors import SpilloverError


class QuantizeError(SpilloverError):
    """The file cannot be made; the message says why and what to do."""
