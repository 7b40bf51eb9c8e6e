"""From a frame's bytes to a typed value, or to the error that it is none."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from spillover.cloud_fallback.errors import ProviderError

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""A number of tokens, or a place in a list."""

T = TypeVar("T")


def decoded(provider: str, data: bytes, kind: type[T]) -> T:
    """*data* as *kind*; unknown fields are ignored. Raises ProviderError for anything else."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise _malformed(provider) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _mended(provider, data, kind, error)


def _mended(provider: str, data: bytes, kind: type[T], cause: Exception) -> T:
    """A second try for text that was cut between the halves of a surrogate pair, as servers
    written in JavaScript do: each lone half becomes U+FFFD."""
    if b"\\u" not in data:
        raise _malformed(provider) from cause
    try:
        return msgspec.convert(_without_lone_surrogates(json.loads(data)), kind)
    except (ValueError, RecursionError) as error:
        raise _malformed(provider) from error


def _without_lone_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_lone_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_lone_surrogates(item) for key, item in value.items()}
    return value


def _malformed(provider: str) -> ProviderError:
    return ProviderError(provider, "sent an event that is not what its format says")
