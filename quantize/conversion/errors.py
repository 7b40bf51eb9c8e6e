"""The errors of a conversion that nobody asked for by name.

NotNow
"""

from __future__ import annotations

from spillover.runtime.errors import SpilloverError


class NotNow(SpilloverError):
    """Disk, memory or settings do not allow it at present; the message says what is missing."""
