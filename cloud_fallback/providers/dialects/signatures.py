"""What a model has signed, to be given back to it."""

from __future__ import annotations

import threading
from collections import OrderedDict

MAX_SIGNATURES = 1_024
MAX_SIGNATURE_CHARS = 32_768


class Signatures:
    """The signatures of tool calls by the calls' ids. Clients give back the ids alone, so that the
    rest is kept here, in memory, as long as there is room. May be used from any thread."""

    def __init__(self, most: int = MAX_SIGNATURES) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._by_id: OrderedDict[str, str] = OrderedDict()

    def remember(self, call_id: str, signature: str) -> None:
        if len(signature) > MAX_SIGNATURE_CHARS:
            return
        with self._lock:
            self._by_id[call_id] = signature
            self._by_id.move_to_end(call_id)
            if len(self._by_id) > self._most:
                self._by_id.popitem(last=False)

    def of(self, call_id: str) -> str | None:
        with self._lock:
            return self._by_id.get(call_id)
