"""A key shows up nowhere but in the one header that it is for."""

from __future__ import annotations

import gc
import logging
import traceback
from typing import Any

import msgspec
import pytest

from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.providers.cloud_engine import CloudEngine
from spillover.runtime.errors import SpilloverError
from tests.answers import ask
from tests.cloud_fallback.providers import DIALECTS, KEY, engine_for
from tests.fakes.fake import Fake
from tests.fakes.script import Act

ECHO = f'{{"error": {{"message": "Incorrect API key provided: {KEY}", "code": "{KEY}"}}}}'
FAULTS = [
    Act(),
    Act(refusal="auth"),
    Act(status=401, body=ECHO),
    Act(status=400, body=ECHO),
    Act(status=500, body=f"<html>{KEY}</html>", headers={"x-echo": KEY}),
    Act(redirect_to=f"https://elsewhere.example/?key={KEY}"),
    Act(cut_after_chunks=2, cut="reset"),
    Act(malformed_after_chunks=1),
    Act(raw=(f"data: {ECHO}\n\n",)),
    Act(raw=(ECHO,)),
]


def everything_said(error: BaseException) -> str:
    """An error as a log shows it, with its causes and with the values that it carries."""
    shown = traceback.format_exception(error)
    while True:
        shown += [repr(error), repr(error.args), repr(vars(error))]
        if error.__cause__ is None:
            return "".join(shown)
        error = error.__cause__


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_key_is_in_no_log_and_no_error(
    fake: Fake, http: Http, caplog: pytest.LogCaptureFixture, dialect: str
) -> None:
    caplog.set_level(logging.DEBUG)
    engine = engine_for(fake, dialect, http=http)
    shown = [repr(engine.settings), msgspec.json.encode(engine.settings).decode()]
    for act in FAULTS:
        fake.script(act)
        try:
            shown += map(repr, engine.stream(ask()))
        except SpilloverError as error:
            shown.append(everything_said(error))
    assert len(fake.requests) == len(FAULTS)
    assert all(_carries_the_key(request.headers) for request in fake.requests)
    assert not any(KEY in request.path + request.body for request in fake.requests)
    assert KEY not in "".join(shown)
    assert KEY not in caplog.text


def test_a_key_is_in_no_object_that_shows_itself(fake: Fake, http: Http) -> None:
    engine = engine_for(fake, http=http)
    list(engine.stream(ask()))
    for thing in _reachable(engine):
        assert KEY not in repr(thing), type(thing)


def test_a_key_that_no_header_may_hold_is_not_quoted(fake: Fake, http: Http) -> None:
    engine = engine_for(fake, http=http)
    for odd in ("sk-1\r\nx: y", "schlüssel", "sk 1\x00"):
        engine.api.credentials._key._Secret__value = odd  # type: ignore[attr-defined]  # as if it had been found
        with pytest.raises(SpilloverError) as caught:
            list(engine.stream(ask()))
        assert odd not in everything_said(caught.value)
    assert fake.record.accepted == 0


def _carries_the_key(headers: dict[str, str]) -> bool:
    holding = [name for name, value in headers.items() if KEY in value]
    return len(holding) == 1


def _reachable(engine: CloudEngine) -> list[Any]:
    """The engine and what it holds, some steps deep."""
    found: list[Any] = [engine]
    for _ in range(3):
        held = gc.get_referents(*found)
        found += [
            thing for thing in held if type(thing).__module__.startswith("spillover.cloud_fallback")
        ]
    return found
