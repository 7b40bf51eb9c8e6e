"""What can be wrong with a model file."""

from __future__ import annotations


class ModelFileError(Exception):
    """The file is not a usable model; the message says what it is and what to do."""
