"""Runs the endpoint: binds, serves, and shuts down."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Generator
from types import FrameType

import msgspec
import uvicorn

from spillover.cloud_fallback.route.router import Router
from spillover.edge_server.answers.served_models import ServedModels
from spillover.edge_server.answers.service import Service
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.errors import ConfigError
from spillover.edge_server.web.app import create_app
from spillover.edge_server.web.bridge import Bridge
from spillover.edge_server.web.connections import Connections
from spillover.edge_server.web.descriptors import OutOfDescriptors, allow_connections
from spillover.edge_server.web.h11_protocol import IDLE_TIMEOUT_S, HardenedProtocol
from spillover.edge_server.web.security import check_bind

__all__ = ["check_bind", "check_free", "serve"]

MAX_HEAD_BYTES = 32 * 1024
BACKLOG = 512
SWITCH_INTERVAL_S = 0.0005
"""A tenth of Python's own: the event loop waits as long as this for each thread that computes."""


def check_free(settings: Settings) -> None:
    """Raise ConfigError where serve() could not listen, because another program does."""
    for sock in _bind_all(settings):
        sock.close()


def serve(
    models: ServedModels,
    router: Router,
    settings: Settings,
    *,
    on_ready: Callable[[list[str]], None],
) -> None:
    """Serve *models* by way of *router* until a signal; *on_ready* gets the addresses.

    Raises ConfigError for an address that cannot or must not be bound.
    """
    check_bind(settings)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    most = allow_connections(settings.max_connections)
    settings = msgspec.structs.replace(settings, max_connections=most)
    socks = _bind_all(settings)
    service = Service(
        models.default.engine,
        router,
        max_answers=settings.max_connections,
        max_generation_s=settings.max_generation_s,
        models=models,
    )
    try:
        asyncio.run(_serve(service, settings, socks, on_ready))
    finally:
        for sock in socks:
            sock.close()
        service.close()


async def _serve(
    service: Service,
    settings: Settings,
    socks: list[socket.socket],
    on_ready: Callable[[list[str]], None],
) -> None:
    connections = Connections(settings.max_connections)
    asyncio.get_running_loop().set_exception_handler(OutOfDescriptors(connections))
    protocol = type(
        "Protocol",
        (HardenedProtocol,),
        {"connections_of_all": connections, "head_timeout_s": settings.head_timeout_s},
    )

    app = create_app(service, settings)
    bridge = Bridge(app, service.models, settings, connections)
    config = uvicorn.Config(
        bridge,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # The connection is found by its real address: a header must not name another client's.
        proxy_headers=False,
        timeout_keep_alive=IDLE_TIMEOUT_S,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s) + 2,
    )
    server = _Server(config, bridge, settings, lambda: on_ready([*map(_url, socks)]))
    try:
        await server.serve(sockets=socks)
    finally:
        bridge.close()


class _Server(uvicorn.Server):
    """uvicorn's server; on shutdown running streams get their grace, then a last event. A second
    signal ends the grace, a third one ends the server as it is."""

    def __init__(
        self,
        config: uvicorn.Config,
        bridge: Bridge,
        settings: Settings,
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._bridge = bridge
        self._grace_s = settings.shutdown_grace_s
        self._on_ready = on_ready
        self._n_signals = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take a closed terminal as Ctrl-C, too, unless nohup told us to outlive it."""
        with super().capture_signals():
            if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
                yield
                return
            before = signal.signal(signal.SIGHUP, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._n_signals += 1
        if self._n_signals == 1:
            super().handle_exit(sig, frame)
        elif self._n_signals == 2:
            asyncio.get_running_loop().call_soon_threadsafe(self._bridge.stop)
        else:
            self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(self._grace_s, self._bridge.stop)
        await super().shutdown(sockets)


def _bind_all(settings: Settings) -> list[socket.socket]:
    """A listening socket for each host and port; all hosts have the same ports."""
    wanted = {"--port (0: any free one) or --host": settings.port}
    if settings.ollama_port:
        wanted["--ollama-port, or stop Ollama if it runs"] = settings.ollama_port
    socks: list[socket.socket] = []
    with contextlib.ExitStack() as on_error:
        for advice, port in wanted.items():
            for host in settings.hosts:
                is_only = len(settings.hosts) == 1
                sock = _bind(host.strip("[]"), port, advice, is_only=is_only)
                on_error.callback(sock.close)
                socks.append(sock)
                port = sock.getsockname()[1]
        on_error.pop_all()
    return socks


def _bind(host: str, port: int, advice: str, *, is_only: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    with contextlib.ExitStack() as on_error:
        on_error.callback(sock.close)
        if family == socket.AF_INET6 and not is_only:  # "::" may stand beside "0.0.0.0"
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if hasattr(socket, "SO_REUSEPORT"):  # not Windows, where reuse would share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen(BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror or error}. Choose another "
                + advice
            ) from error
        on_error.pop_all()
    return sock


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
