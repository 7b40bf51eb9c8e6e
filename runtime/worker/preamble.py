"""Finds where the first turn of the user begins in a prompt.

What comes before it, the system's instructions and the tools, is what conversations have in common.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable
from itertools import takewhile
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from spillover.runtime.backend import Tokens
from spillover.runtime.chat.chat_template import ChatTemplate
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.kv_cache.kept_sequences import n_common
from spillover.runtime.request import GenerationRequest, Message, Tool

_LEAST_BYTES = 256
"""Of less there is nothing to gain."""
_N_REMEMBERED = 16


class _Preamble(Struct, frozen=True):
    """What a prompt has before the first turn of the user."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    template_kwargs: dict[str, Any]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Preamble).decode


class PreambleFinder:
    """Renders each preamble once, with a mark in place of the user's words. Any thread may ask."""

    def __init__(self, template: ChatTemplate, tokenize: Callable[[str], Tokens]) -> None:
        """*tokenize* reads a whole prompt."""
        self._template = template
        self._tokenize = tokenize
        self._tokens_of = functools.lru_cache(maxsize=_N_REMEMBERED)(self._rendered)

    def length(self, request: GenerationRequest, tools: tuple[Tool, ...], prompt: Tokens) -> int:
        """How many tokens of *prompt*, which shows *request* with *tools*, come before the first
        words of the user; 0 when they are too few to matter, or it has no turns."""
        first = takewhile(lambda message: message.role in ("system", "developer"), request.messages)
        key = _encode(_Preamble(tuple(first), tools, request.template_kwargs))
        is_short = not request.messages or len(key) < _LEAST_BYTES
        return 0 if is_short else n_common(self._tokens_of(key), prompt)

    def _rendered(self, key: bytes) -> Tokens:
        preamble, mark = _decode(key), f"Mq{secrets.token_hex(8)}Zx"
        try:
            rendered = self._template.prompt(
                (*preamble.messages, Message(role="user", content=mark)),
                template_kwargs=preamble.template_kwargs,
                tools=preamble.tools,
            )
        except InvalidRequest:  # it may be shown only together with what follows
            return np.empty(0, dtype=np.int32)
        return self._tokenize(rendered.text.partition(mark)[0])
