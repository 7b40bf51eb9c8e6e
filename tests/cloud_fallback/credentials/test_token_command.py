"""A token that a program prints lets requests in, is kept for a while, and renewed when refused."""

from __future__ import annotations

import os
import select
import signal
import stat
import time
from pathlib import Path

import pytest

from spillover.cloud_fallback.errors import AuthFailed
from spillover.cloud_fallback.http.client import Http
from spillover.cloud_fallback.http.errors import Cancelled, TimedOut
from spillover.cloud_fallback.http.exchange import Exchange, Outgoing
from spillover.cloud_fallback.providers.credentials.token_command import LIFE_S, TokenCommand
from tests.answers import ask, text_of
from tests.cloud_fallback.http.waiting import Waiter
from tests.cloud_fallback.providers import engine_for
from tests.fakes.fake import Fake
from tests.fakes.script import Act

OUTGOING = Outgoing(url="https://x.example", headers={}, body=b"")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Prints token-1, token-2 and so on."""
    path = tmp_path / "print-token"
    path.write_text(
        f'#!/bin/sh\necho x >> "{tmp_path}/runs"\necho "token-$(wc -l < "{tmp_path}/runs")"\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def token(command: TokenCommand, exchange: Exchange | None = None) -> str:
    return command.headers(OUTGOING, exchange or Exchange())["authorization"]


def test_a_token_is_kept_for_a_time(program: Path) -> None:
    now = [0.0]
    exchange = Exchange(clock=lambda: now[0])
    command = TokenCommand("p", [str(program)])
    assert token(command, exchange) == "Bearer token-1"
    now[0] = LIFE_S - 1
    assert token(command, exchange) == "Bearer token-1"
    now[0] = LIFE_S + 1
    assert token(command, exchange) == "Bearer token-2"


def test_many_requests_for_a_token_run_the_program_once(program: Path) -> None:
    command = TokenCommand("p", [str(program)])
    waiters = [Waiter(lambda: token(command)) for _ in range(20)]
    assert {waiter.result() for waiter in waiters} == {"Bearer token-1"}


def test_a_token_that_is_refused_is_renewed_once(fake: Fake, http: Http, program: Path) -> None:
    engine = engine_for(fake, http=http, token_command=(str(program),))
    list(engine.stream(ask()))
    fake.script(Act(refusal="auth"), Act())
    assert text_of(engine.stream(ask())) == "Hello from the cloud."
    sent = [request.headers["authorization"] for request in fake.requests]
    assert sent == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]


def test_a_new_token_that_is_refused_is_not_used_again(
    fake: Fake, http: Http, program: Path
) -> None:
    fake.script(Act(refusal="auth"))
    with pytest.raises(AuthFailed):
        list(engine_for(fake, http=http, token_command=(str(program),)).stream(ask()))
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["/no/such/program"], "could not be started"),
        (["false"], "exit code 1"),
        (["true"], "printed no token"),
        (["printf", "a\\nb"], "printed no token"),
    ],
)
def test_a_program_that_fails_says_which_and_how(command: list[str], message: str) -> None:
    with pytest.raises(AuthFailed, match=message) as caught:
        token(TokenCommand("p", command))
    assert command[0] in str(caught.value)


def test_useless_output_of_the_program_is_not_quoted() -> None:
    with pytest.raises(AuthFailed) as caught:
        token(TokenCommand("p", ["sh", "-c", "echo secret; echo secret >&2; exit 3"]))
    assert "secret" not in repr(caught.value)


def test_a_program_that_hangs_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    command = TokenCommand("p", ["sleep", "600"])
    with pytest.raises(TimedOut):
        token(command, Exchange(time.monotonic() + 0.05))
    monkeypatch.setattr(
        "spillover.cloud_fallback.providers.credentials.token_command.LONGEST_RUN_S", 0.05
    )
    with pytest.raises(AuthFailed, match=r"sleep took longer than 0\.05 s"):
        token(command)


def test_stop_ends_the_program_and_all_it_has_started(tmp_path: Path) -> None:
    file, exchange = tmp_path / "pid", Exchange()
    script = f'sleep 600 & echo $! > "{file}.new"; mv "{file}.new" "{file}"; wait'
    waiter = Waiter(lambda: token(TokenCommand("p", ["sh", "-c", script]), exchange))
    while not file.exists():
        time.sleep(0.005)
    started = os.pidfd_open(int(file.read_text()))
    exchange.cancel()
    assert isinstance(waiter.error(), Cancelled)
    poll = select.poll()
    poll.register(started, select.POLLIN)
    assert poll.poll(10_000), "it still runs"
    os.close(started)


def test_a_process_that_left_the_programs_group_delays_no_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request used to wait for the end of all who had the program's output open."""
    monkeypatch.setattr(
        "spillover.cloud_fallback.providers.credentials.token_command.STOP_TIMEOUT_S", 0.05
    )
    file, exchange = tmp_path / "pid", Exchange()
    inner = f"echo $$ > {file}.new; mv {file}.new {file}; exec sleep 600"
    command = TokenCommand("p", ["sh", "-c", f"setsid sh -c '{inner}' & wait"])
    waiter = Waiter(lambda: token(command, exchange))
    while not file.exists():
        time.sleep(0.005)
    exchange.cancel()
    try:
        assert isinstance(waiter.error(), Cancelled)
    finally:
        os.kill(int(file.read_text()), signal.SIGKILL)


def test_the_end_of_the_program_is_not_mistaken_for_a_stop() -> None:
    """A stop before the program's end used to leave it running, and its reader waiting."""
    exchange = Exchange()
    exchange.cancel()
    with pytest.raises(Cancelled):
        token(TokenCommand("p", ["sleep", "600"]), exchange)
