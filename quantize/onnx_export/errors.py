"""What can keep a model from being exported.

ExportError
"""

from __future__ import annotations

from spillover.runtime.errors import SpilloverError


class ExportError(SpilloverError):
    """The model cannot be exported; the message says what is in the way and what to do."""
