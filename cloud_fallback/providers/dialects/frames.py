"""From a frame's bytes to a typed value, or to the error that it is none."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.providers.dialects.classes import error_of
from spillover.cloud_fallback.providers.dialects.dialect import Frame
from spillover.cloud_fallback.providers.dialects.failure import read_event
from spillover.runtime.decoders import decoder_of

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""A number of tokens, or a place in a list."""

T = TypeVar("T")


class _Kind(Struct):
    type: Any = None


class FrameReader:
    """Reads the JSON of one stream's frames.

    Servers written in JavaScript may cut an answer between the two halves of a surrogate pair,
    and escape each half in its own frame: the first half waits for the second.
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._half = ""

    def kind(self, frame: Frame) -> str:
        """The type that *frame* says it is of: in its data, else by its name. To be asked before
        the rest is read, since an event that is not known may have fields of any shape."""
        kind = self.read(frame.data, _Kind).type
        return kind if isinstance(kind, str) else frame.name

    def read(self, data: bytes, kind: type[T]) -> T:
        """*data* as *kind*; unknown fields are ignored. Raises ProviderError for all else."""
        try:
            return decoder_of(kind).decode(data)
        except msgspec.ValidationError as error:
            raise self._malformed() from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if b"\\u" not in data:
                raise self._malformed() from error
        try:
            return msgspec.convert(self._mended(json.loads(data)), kind)
        except (ValueError, RecursionError) as error:
            raise self._malformed() from error

    def error(self, frame: Frame) -> ProviderError:
        """The error that *frame* tells of."""
        return error_of(self._provider, read_event(self.read(frame.data, object)))

    def _malformed(self) -> ProviderError:
        return ProviderError(self._provider, "sent an event that is not what its format says")

    def _mended(self, value: Any) -> Any:
        """*value* without lone halves of pairs."""
        if isinstance(value, str):
            return self._whole(value)
        if isinstance(value, list):
            return [self._mended(item) for item in value]
        if isinstance(value, dict):
            return {key: self._mended(item) for key, item in value.items()}
        return value

    def _whole(self, text: str) -> str:
        if self._half and "\udc00" <= text[:1] <= "\udfff":
            text, self._half = self._half + text, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
