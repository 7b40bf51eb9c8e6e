"""Where a conversation is at home after a handoff: it stays there for a while, then returns."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict

from msgspec import Struct

from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.runtime.request import Message

_MAX_CONVERSATIONS = 4_096
_SALT = os.urandom(16)
"""Keys mean nothing outside this process, so none tells what a conversation was about."""


def conversation_key(messages: tuple[Message, ...], owner: str = "") -> bytes:
    """The same for all turns of one *owner*'s conversation: a keyed hash of all up to the first
    of the user's messages. Another owner's with the same words has another key."""
    parts = [owner]
    for message in messages:
        parts += (message.role, message.content)
        if message.role == "user":
            break
    digest = hashlib.blake2b(key=_SALT, digest_size=16)
    for part in parts:
        text = part.encode("utf-8", "surrogatepass")
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.digest()


class _Stay(Struct):
    """One conversation's stay with *provider*."""

    provider: str
    since: float
    until: float
    length_s: float
    at_home: bool = False


class Stickiness:
    """A bounded table of conversations that were handed over; times are passed in.

    Each handoff soon after the return from one makes the next stay twice as long, so that a
    device that hovers around a threshold moves a conversation a few times and not at every turn.
    Not thread-safe; the router holds its own lock.
    """

    def __init__(
        self, settings: PolicySettings, *, max_conversations: int = _MAX_CONVERSATIONS
    ) -> None:
        self._settings = settings
        self._most = max_conversations
        self._stays: OrderedDict[bytes, _Stay] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stays)

    def handed_over(self, key: bytes, provider: str, now: float) -> None:
        """The conversation *key* goes on with *provider*."""
        settings = self._settings
        length_s = settings.sticky_s
        old = self._stays.pop(key, None)
        if old is not None and now < old.until + old.length_s:
            length_s = old.length_s
            if old.at_home or now >= old.until:
                length_s = min(2.0 * old.length_s, max(settings.sticky_max_s, settings.sticky_s))
        self._stays[key] = _Stay(provider, now, now + length_s, length_s)
        while len(self._stays) > self._most:
            self._stays.popitem(last=False)

    def provider(self, key: bytes, now: float) -> str | None:
        """Who the next turn belongs to; None: the local model."""
        stay = self._stays.get(key)
        if stay is None or stay.at_home or now >= stay.until:
            return None
        return stay.provider

    def returned(self, key: bytes, now: float) -> None:
        """The cloud is gone or the user wants the conversation here: it is local at once."""
        stay = self._stays.get(key)
        if stay is not None and now < stay.until:
            stay.at_home = True
            stay.until = now
