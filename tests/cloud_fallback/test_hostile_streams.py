"""Whatever a provider sends, an answer is whole or fails as a ProviderError."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.http.exchange import Exchange, Outgoing
from spillover.cloud_fallback.providers.build import dialect_of
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.cloud_fallback.providers.credentials.credentials import Credentials
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.runtime.events import EngineEvent, Finished
from tests.answers import ask, text_of
from tests.cloud_fallback.providers import DIALECTS, MODELS
from tests.fakes.asked import Asked, Turn
from tests.fakes.asked import DialectName as FakeDialect
from tests.fakes.frames import FAKE_STREAMS, pieces
from tests.fakes.script import Act, ToolCall

TEXT = 'Ünïcödé 👩‍👩‍👧 "\\"\r\n\u2028.'
FAKES: dict[str, FakeDialect] = {"huggingface": "openai", "vertex": "gemini"}
every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


class Canned:
    """A response, and the Http that gives it."""

    status = 200

    def __init__(self, chunks: list[bytes], content_type: str) -> None:
        self._chunks = chunks
        self.headers = {"content-type": content_type}

    def open(self, outgoing: Outgoing, exchange: Exchange) -> Canned:
        return self

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def close(self) -> None:
        pass


def engine(dialect: str, chunks: list[bytes]) -> CloudEngine:
    base_url = "http://127.0.0.1:1"
    settings = ProviderSettings(name="p", dialect=dialect, model=MODELS[dialect], base_url=base_url)
    http: Any = Canned(chunks, FAKE_STREAMS[FAKES.get(dialect, dialect)].content_type)  # type: ignore[arg-type]  # the names in FAKES are replaced
    return CloudEngine(settings, dialect_of(settings), http, Credentials(settings.name))


def stream_of(dialect: str) -> bytes:
    """A provider's stream with something of everything in it."""
    call = ToolCall(id="call12345", name="weather", arguments='{"city": "Oslo"}')
    act = Act(text=TEXT, chunk_chars=3, reasoning="Hm.", tool_calls=(call,))
    fake: FakeDialect = FAKES.get(dialect, dialect)  # type: ignore[arg-type]  # the names in FAKES are replaced
    asked = Asked(dialect=fake, model="m", turns=(Turn("user", "hi"),), stops=(), max_tokens=None)
    return b"".join(piece.data for piece in pieces(act, asked))


STREAMS = {dialect: stream_of(dialect) for dialect in DIALECTS}


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(borders)]


def without_times(events: list[EngineEvent]) -> list[EngineEvent]:
    end = events[-1]
    assert isinstance(end, Finished)
    return [*events[:-1], (end.reason, end.usage)]  # type: ignore[list-item]  # only compared


@every_dialect
@given(places=st.lists(st.integers(0, 100_000), max_size=12))
def test_any_cut_of_the_bytes_gives_the_same_events(dialect: str, places: list[int]) -> None:
    stream = STREAMS[dialect]
    whole = without_times(list(engine(dialect, [stream]).stream(ask())))
    assert text_of(whole[:-1]).endswith(TEXT)
    assert without_times(list(engine(dialect, cut(stream, places)).stream(ask()))) == whole


@st.composite
def damages(draw: st.DrawFn, stream: bytes) -> bytes:
    """*stream* with some of its bytes changed, gone, doubled or added."""
    damaged = bytearray(stream)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(damaged)))
        end = start + draw(st.integers(0, 60))
        kind = draw(st.sampled_from(("change", "remove", "double", "end", "add")))
        if kind == "change":
            damaged[start : start + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "remove":
            del damaged[start:end]
        elif kind == "double":
            damaged[start:start] = damaged[start:end]
        elif kind == "end":
            del damaged[start:]
        else:
            damaged[start:start] = draw(st.binary(max_size=20) | st.sampled_from(JUNK))
    return bytes(damaged)


JUNK = (
    b"data: null\n\n",
    b"data: []\n\n",
    b"data: 1e999\n\n",
    b'data: {"error": null}\n\n',
    b'data: {"choices": [null]}\n\n',
    b'data: {"choices": {}}\n\n',
    b'data: {"type": 5}\n\n',
    b'data: {"candidates": [{"content": {"parts": [{"text": 5}]}}]}\n\n',
    b'data: "\xff\xfe"\n\n',
    b"data: " + b"[" * 5000 + b"\n\n",
    b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n',
    b"\x00" * 20,
)


@every_dialect
@given(data=st.data())
def test_a_damaged_stream_is_an_answer_or_a_provider_s_error(
    dialect: str, data: st.DataObject
) -> None:
    stream = data.draw(damages(STREAMS[dialect]))
    try:
        events = list(engine(dialect, [stream]).stream(ask()))
    except ProviderError:
        return
    assert isinstance(events[-1], Finished)
    assert [type(event) for event in events].count(Finished) == 1


@every_dialect
@given(stream=st.binary(max_size=200) | st.lists(st.sampled_from(JUNK)).map(b"".join))
def test_any_bytes_are_an_answer_or_a_provider_s_error(dialect: str, stream: bytes) -> None:
    try:
        events = list(engine(dialect, [stream]).stream(ask()))
    except ProviderError:
        return
    assert [type(event) for event in events].index(Finished) == len(events) - 1


@every_dialect
def test_no_cut_of_the_stream_is_taken_for_the_whole(dialect: str) -> None:
    stream = STREAMS[dialect]
    for n in range(len(stream)):
        try:
            events = list(engine(dialect, [stream[:n]]).stream(ask()))
        except ProviderError:
            continue
        assert text_of(events).endswith(TEXT), f"cut after {n} of {len(stream)} bytes"
