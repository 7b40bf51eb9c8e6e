"""Errors of the local endpoint, in addition to those of the runtime.

SpilloverError
└── ConfigError             a setting is wrong; the message names its source
"""

from __future__ import annotations

from spillover.runtime.errors import SpilloverError


class ConfigError(SpilloverError):
    """A setting is wrong, or settings contradict each other; nothing was started."""
