"""Errors of the local endpoint, besides those of the runtime.

SpilloverError
└── ConfigError             a setting is wrong; the message names where it comes from
"""

from __future__ import annotations

from spillover.runtime.errors import SpilloverError


class ConfigError(SpilloverError):
    """A setting is wrong or settings do not go together; nothing was started."""
