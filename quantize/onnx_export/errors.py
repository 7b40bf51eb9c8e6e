"""The error of an export that is not possible.

ExportError
"""

from __future__ import annotations

from spillover.runtime.errors import SpilloverError


class ExportError(SpilloverError):
    """The model cannot be exported; the message says why and what to do."""
