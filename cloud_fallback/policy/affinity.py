"""Keeps a conversation with its provider for a limited time after a handoff."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict

from msgspec import Struct

from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.runtime.request import Message

_MAX_CONVERSATIONS = 4_096
_SALT = os.urandom(16)
"""Keys mean nothing outside this process, so no key reveals a conversation."""


def conversation_key(messages: tuple[Message, ...], owner: str = "") -> bytes:
    """The same key for all turns of an *owner*'s conversation: a keyed hash of the messages up to
    the user's first one."""
    parts = [owner]
    for message in messages:
        parts += (message.role, message.content)
        parts += [image.data or image.url for image in message.images]
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
    until: float
    length_s: float


class Affinity:
    """A bounded table of conversations and their providers; clock times are passed in.

    A handoff soon after a conversation has returned doubles the next stay, so that a device that
    hovers around a threshold does not move it at every turn. Not thread-safe.
    """

    def __init__(self, *, max_conversations: int = _MAX_CONVERSATIONS) -> None:
        self._most = max_conversations
        self._stays: OrderedDict[bytes, _Stay] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stays)

    def handed_over(self, key: bytes, provider: str, now: float, settings: PolicySettings) -> None:
        """Note that *provider* continues the conversation *key*, for as long as *settings* say."""
        length_s = settings.sticky_s
        old = self._stays.pop(key, None)
        if old is not None and now < old.until + old.length_s:
            length_s = old.length_s
            if now >= old.until:
                length_s = min(2.0 * old.length_s, max(settings.sticky_max_s, settings.sticky_s))
        self._stays[key] = _Stay(provider, now + length_s, length_s)
        while len(self._stays) > self._most:
            self._stays.popitem(last=False)

    def provider(self, key: bytes, now: float) -> str | None:
        """The provider that answers the next turn; None: the local model."""
        stay = self._stays.get(key)
        return None if stay is None or now >= stay.until else stay.provider

    def returned(self, key: bytes, now: float) -> None:
        """Return the conversation to the local model at once: the provider failed, or the user
        wants it here."""
        stay = self._stays.get(key)
        if stay is not None:
            stay.until = min(stay.until, now)
