"""Names are looked up and addresses tried within the time that an exchange has."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Generator
from functools import partial

import pytest

from spillover.cloud_fallback.http.connecting import Address, Resolver, connect
from spillover.cloud_fallback.http.errors import Cancelled, NotReached, TimedOut
from spillover.cloud_fallback.http.exchange import Exchange
from tests.cloud_fallback.http.waiting import Waiter


class HangingLookup:
    """A system's resolver that says nothing until it is told to."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.answer = threading.Event()
        self.n_asked = 0

    def __call__(self, host: str, port: int) -> list[Address]:
        self.n_asked += 1
        self.asked.release()
        self.answer.wait(20)
        return [(socket.AF_INET, ("192.0.2.1", port))]


@pytest.fixture
def lookup() -> Generator[HangingLookup]:
    lookup = HangingLookup()
    yield lookup
    lookup.answer.set()


@pytest.fixture
def listener() -> Generator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def silent() -> Generator[socket.socket]:
    """A listener that answers no connection: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        clients = []
        for _ in range(3):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            clients.append(client)
        yield listener
        for client in clients:
            client.close()


def address(listener: socket.socket) -> Address:
    return socket.AF_INET, listener.getsockname()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_an_address_needs_no_look_up(lookup: HangingLookup) -> None:
    resolver = Resolver(lookup)
    assert resolver.resolve("127.0.0.1", 80, Exchange()) == [(socket.AF_INET, ("127.0.0.1", 80))]
    assert resolver.resolve("::1", 80, Exchange()) == [(socket.AF_INET6, ("::1", 80))]
    assert lookup.n_asked == 0


def test_a_resolver_that_hangs_is_not_waited_for(lookup: HangingLookup) -> None:
    with pytest.raises(TimedOut):
        Resolver(lookup).resolve("cloud.example", 443, Exchange(time.monotonic() + 0.05))


def test_cancel_ends_a_look_up(lookup: HangingLookup) -> None:
    exchange = Exchange()
    waiter = Waiter(lambda: Resolver(lookup).resolve("cloud.example", 443, exchange))
    lookup.asked.acquire(timeout=10)
    exchange.cancel()
    assert isinstance(waiter.error(), Cancelled)


def test_names_that_hang_hold_up_no_other(lookup: HangingLookup) -> None:
    def find(host: str, port: int) -> list[Address]:
        return lookup(host, port) if host.startswith("dead") else [(socket.AF_INET, ("::", port))]

    resolver, exchange = Resolver(find), Exchange()
    waiters = [
        Waiter(partial(resolver.resolve, f"dead{n}.example", 443, exchange)) for n in range(40)
    ]
    for _ in waiters:
        assert lookup.asked.acquire(timeout=20)
    assert resolver.resolve("cloud.example", 443, Exchange(time.monotonic() + 20))


def test_a_name_is_looked_up_once_for_all_who_ask(lookup: HangingLookup) -> None:
    resolver = Resolver(lookup)
    waiters = [Waiter(lambda: resolver.resolve("cloud.example", 1, Exchange())) for _ in range(20)]
    lookup.asked.acquire(timeout=10)
    lookup.answer.set()
    assert all(waiter.result() for waiter in waiters)
    assert lookup.n_asked < 20


def test_an_unknown_name_is_looked_up_again_the_next_time() -> None:
    answers: list[Exception | list[Address]] = [
        socket.gaierror(-2, "unknown"),
        UnicodeError("label too long"),
        [(socket.AF_INET, ("192.0.2.1", 1))],
    ]

    def lookup(host: str, port: int) -> list[Address]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    resolver = Resolver(lookup)
    for _ in range(2):
        with pytest.raises(NotReached, match=r"cloud\.example cannot be resolved"):
            resolver.resolve("cloud.example", 1, Exchange())
    assert resolver.resolve("cloud.example", 1, Exchange())


def test_a_look_up_that_could_not_start_blocks_no_later_one(
    lookup: HangingLookup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later ones used to wait for it until their time was over."""
    resolver = Resolver(lookup)

    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError):
            resolver.resolve("cloud.example", 1, Exchange())
    lookup.answer.set()
    assert resolver.resolve("cloud.example", 1, Exchange(time.monotonic() + 20))


def test_the_resolver_of_the_system_is_asked() -> None:
    found = Resolver().resolve("localhost", 80, Exchange())
    assert found[0][1][0] in ("127.0.0.1", "::1")


def test_an_address_that_refuses_is_passed_over(listener: socket.socket) -> None:
    nobody = (socket.AF_INET, ("127.0.0.1", free_port()))
    with connect([nobody, address(listener)], Exchange()) as sock:
        assert sock.getpeername() == listener.getsockname()


def test_an_address_that_says_nothing_is_passed_over(
    listener: socket.socket, silent: socket.socket
) -> None:
    with connect([address(silent), address(listener)], Exchange(time.monotonic() + 30)) as sock:
        assert sock.getpeername() == listener.getsockname()


def test_the_families_take_turns(listener: socket.socket) -> None:
    v6: list[Address] = [(socket.AF_INET6, ("::1", free_port())) for _ in range(3)]
    with connect([*v6, address(listener)], Exchange(time.monotonic() + 30)) as sock:
        assert sock.getpeername() == listener.getsockname()


def test_when_all_addresses_fail_the_reason_is_given() -> None:
    nobody: Address = (socket.AF_INET, ("127.0.0.1", free_port()))
    with pytest.raises(NotReached, match="nothing listens there"):
        connect([nobody, nobody], Exchange())
    with pytest.raises(NotReached, match="no address"):
        connect([], Exchange())


def test_connecting_ends_in_time(silent: socket.socket) -> None:
    with pytest.raises(TimedOut):
        connect([address(silent)], Exchange(time.monotonic() + 0.05))


def test_cancel_ends_connecting(silent: socket.socket) -> None:
    exchange = Exchange()
    waiter = Waiter(lambda: connect([address(silent)], exchange))
    exchange.cancel()
    assert isinstance(waiter.error(), Cancelled)


@pytest.mark.skipif(sys.platform != "linux", reason="these options are Linux's")
def test_a_connection_notices_a_dead_peer(listener: socket.socket) -> None:
    with connect([address(listener)], Exchange()) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
