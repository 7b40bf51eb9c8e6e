"""Answers of a cloud engine, in every dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.runtime.events import EngineEvent
from tests.answers import ask, text_of
from tests.cloud_fallback.providers import DIALECTS

TEXT = 'Ünïcödé, 👩‍👩‍👧 "quotes" \\ and\r\nlines\u2028too.\n\n```py\nprint(1)\n```\n'
PARTIAL = "Once upon a time there was a"

every_dialect = pytest.mark.parametrize("dialect", DIALECTS)
with_tools = pytest.mark.parametrize("dialect", [d for d in DIALECTS if d != "tgi"])

MakeEngine = Callable[..., CloudEngine]


def answer(engine: CloudEngine, **fields: Any) -> list[EngineEvent]:
    return list(engine.stream(ask(**fields)))


def failure(engine: CloudEngine, **fields: Any) -> tuple[str, ProviderError]:
    """The text that came, and what ended it."""
    events: list[EngineEvent] = []
    with pytest.raises(ProviderError) as caught:
        events.extend(engine.stream(ask(**fields)))  # keeps what came before the error
    return text_of(events), caught.value
