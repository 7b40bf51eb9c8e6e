"""What the decoders of all dialects read an answer with: its JSON, its tool calls, and its joint
with a prefilled turn."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.providers.dialects.encoding import HttpRequest
from spillover.runtime.decoders import decoder_of
from spillover.runtime.events import ToolCallDelta
from spillover.runtime.text.surrogates import valid_text

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""A number of tokens, or a place in a list."""

MAX_TOOL_CALLS = 128

T = TypeVar("T")


class FrameReader:
    """Reads the JSON of one stream's events.

    Servers written in JavaScript may cut an answer between the two halves of a surrogate pair and
    escape each half in its own event: the first half waits for the second.
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._half = ""
        """Left by the events before this one."""
        self._half_after = ""

    def begin(self) -> None:
        """A new event comes, which may be read more than once."""
        self._half = self._half_after

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

    def _malformed(self) -> ProviderError:
        return ProviderError(self._provider, "sent an event that does not follow its format")

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
            text, self._half_after = self._half + text, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half_after = text[:-1], text[-1]
        return valid_text(text)


class PrefilledText:
    """Removes from the start of an answer what the caller already has: the prefilled turn, where a
    provider repeats it (*echoes*), and the white space that was cut from the turn's end.

    Holds text back only while it may still be such a repetition.
    """

    def __init__(self, sent: HttpRequest | None, *, echoes: bool = False) -> None:
        self._echo = sent.prefilled if sent and echoes else ""
        self._space = sent.trimmed if sent else ""
        self._held = ""

    def feed(self, text: str) -> str:
        """The text that is new to the caller."""
        if not self._echo and not self._space:
            return text
        text, self._held = self._held + text, ""
        if self._echo:
            if len(text) < len(self._echo) and self._echo.startswith(text):
                self._held = text
                return ""
            text = text.removeprefix(self._echo)
            self._echo = ""
        return self._without_space(text)

    def _without_space(self, text: str) -> str:
        while text and self._space and text[0] == self._space[0]:
            text, self._space = text[1:], self._space[1:]
        if text:
            self._space = ""
        return text

    def flush(self) -> str:
        """What was held back when the answer ended: it was no repetition after all."""
        text, self._held, self._echo = self._held, "", ""
        return text


class ToolCalls:
    """Numbers the calls of an answer from 0, in the order in which they begin.

    Providers mark a call's pieces by an index, a block number or nothing at all; *key* is
    whatever they use. State is bounded by MAX_TOOL_CALLS.
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._indexes: dict[int, int] = {}
        self._empty: set[int] = set()
        self._n_calls = 0
        self._written_id = self._answer_id = ""

    def name_answer(self, answer_id: str | None) -> None:
        """Make the ids of calls that bring none from the answer's, so that the ids of several
        answers in a conversation differ."""
        if answer_id and answer_id != self._written_id:
            self._written_id = answer_id
            self._answer_id = "".join(c for c in answer_id if c.isalnum() or c in "_-")[:40]

    @property
    def has_answer_id(self) -> bool:
        """Whether the ids that are made here belong to this answer alone."""
        return bool(self._answer_id)

    def __len__(self) -> int:
        return self._n_calls

    def __contains__(self, key: int) -> bool:
        return key in self._indexes

    def open(
        self, key: int, *, id: str | None, name: str | None, arguments: str = ""
    ) -> ToolCallDelta:
        """The first piece of a call."""
        if not name:
            raise ProviderError(self._provider, "sent a tool call without a name")
        if self._n_calls >= MAX_TOOL_CALLS:
            raise ProviderError(self._provider, f"calls more than {MAX_TOOL_CALLS} tools at once")
        index = self._indexes[key] = self._n_calls
        self._n_calls += 1
        if not arguments:
            self._empty.add(index)
        call_id = id or "_".join(filter(None, ("call", self._answer_id, str(index))))
        return ToolCallDelta(index=index, id=call_id, name=name, arguments=arguments)

    def add(self, key: int, arguments: str | None) -> list[ToolCallDelta]:
        """A further piece of a call; none when nothing is added, or the call is not ours."""
        index = self._indexes.get(key)
        if index is None or not arguments:
            return []
        self._empty.discard(index)
        return [ToolCallDelta(index=index, arguments=arguments)]

    def close(self) -> list[ToolCallDelta]:
        """An empty object for each call that got no arguments, as their reader expects."""
        empty, self._empty = sorted(self._empty), set()
        return [ToolCallDelta(index=index, arguments="{}") for index in empty]
