"""Keeps the tool calls of one streamed answer in order."""

from __future__ import annotations

from spillover.cloud_fallback.errors import ProviderError
from spillover.runtime.events import ToolCallDelta

MAX_TOOL_CALLS = 128


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
        self._answer_id = ""

    def name_answer(self, answer_id: str) -> None:
        """Calls that bring no id get one made from the answer's, so that ids of several answers
        of a conversation do not meet."""
        self._answer_id = "".join(c for c in answer_id if c.isalnum() or c in "_-")[:40]

    @property
    def has_answer_id(self) -> bool:
        """Whether the ids that are made here are those of this answer alone."""
        return bool(self._answer_id)

    def __len__(self) -> int:
        return self._n_calls

    def has(self, key: int) -> bool:
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
        call_id = id or self._made_id(index)
        return ToolCallDelta(index=index, id=call_id, name=name, arguments=arguments)

    def _made_id(self, index: int) -> str:
        return f"call_{self._answer_id}_{index}" if self._answer_id else f"call_{index}"

    def add(self, key: int, arguments: str) -> list[ToolCallDelta]:
        """A further piece of a call; none when nothing is added, or the call is not ours."""
        index = self._indexes.get(key)
        if index is None or not arguments:
            return []
        self._empty.discard(index)
        return [ToolCallDelta(index=index, arguments=arguments)]

    def close(self) -> list[ToolCallDelta]:
        """Makes the arguments of calls that got none an empty object, as their reader expects."""
        empty, self._empty = sorted(self._empty), set()
        return [ToolCallDelta(index=index, arguments="{}") for index in empty]
