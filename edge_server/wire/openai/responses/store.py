"""Responses that are kept, so that a client can read one again or go on from it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection

import msgspec
from msgspec import Struct

from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.openai.responses.items import Item

MAX_BYTES = 32 * 2**20
MAX_CHAIN = 1_024
"""Most responses of one conversation."""


class StoredResponse(Struct, frozen=True, kw_only=True):
    """One response: its JSON, what was asked, and what was answered."""

    id: str
    owner: str
    body: bytes
    asked: tuple[Item, ...]
    n_asked_bytes: int = 0
    """Of *asked* as JSON."""
    answered: tuple[Item, ...] = ()
    previous: str | None = None
    runs: bool = False
    """In the background: its stream can be followed and stopped."""

    @property
    def n_bytes(self) -> int:
        return len(self.body) + self.n_asked_bytes + len(msgspec.json.encode(self.answered))


class ResponseStore:
    """The newest responses, at most *max_count* and MAX_BYTES of them. In memory: a restart forgets
    them. Any thread may use it."""

    def __init__(self, max_count: int, max_bytes: int = MAX_BYTES) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[StoredResponse, int]] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()

    def put(self, response: StoredResponse) -> None:
        """Keep a response; the oldest ones make room."""
        size = response.n_bytes
        with self._lock:
            self._drop(response.id)
            self._kept[response.id] = response, size
            self._n_bytes += size
            while self._kept and (
                len(self._kept) > self._max_count or self._n_bytes > self._max_bytes
            ):
                self._drop(next(iter(self._kept)))

    def update(self, response: StoredResponse) -> None:
        """Keep what has become of a response, unless it was deleted meanwhile."""
        with self._lock:
            is_known = response.id in self._kept
        if is_known:
            self.put(response)

    def _drop(self, response_id: str) -> None:
        _, size = self._kept.pop(response_id, (None, 0))
        self._n_bytes -= size

    def get(self, response_id: str, owner: str, param: str = "id") -> StoredResponse:
        """The response of *owner* with this id. Raises WireError, also for another owner's."""
        with self._lock:
            response, _ = self._kept.get(response_id, (None, 0))
            if response is None or response.owner != owner:
                raise WireError(404, f"there is no response {response_id[:100]!r} here", param)
            self._kept.move_to_end(response_id)
            return response

    def delete(self, response_id: str, owner: str) -> StoredResponse:
        """Forget a response. Raises WireError as get()."""
        response = self.get(response_id, owner)
        with self._lock:
            self._drop(response_id)
        return response

    def items(self, ids: Collection[str], owner: str) -> dict[str, Item]:
        """Those of the items *ids* that are part of *owner*'s responses."""
        with self._lock:
            kept = [response for response, _ in self._kept.values() if response.owner == owner]
        every = (item for r in kept for item in (*r.asked, *r.answered))
        return {item.id: item for item in every if item.id is not None and item.id in ids}

    def conversation(self, last_id: str | None, owner: str) -> list[Item]:
        """The items of the response *last_id* and of all before it. Raises WireError."""
        chain: list[StoredResponse] = []
        while last_id is not None:
            if len(chain) == MAX_CHAIN:
                message = f"the conversation has more than {MAX_CHAIN} responses: begin a new one"
                raise WireError(400, message, "previous_response_id")
            chain.append(self.get(last_id, owner, "previous_response_id"))
            last_id = chain[-1].previous
        return [item for r in reversed(chain) for item in (*r.asked, *r.answered)]
