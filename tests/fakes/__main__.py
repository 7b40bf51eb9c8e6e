"""python -m tests.fakes [--tls CERT KEY]: a fake provider until its standard input ends.

Prints "PORT CONTROL_PORT" when it listens.
"""

from __future__ import annotations

import asyncio
import ssl
import sys

from tests.fakes.control import Control
from tests.fakes.server import FakeServer


async def main(arguments: list[str]) -> None:
    """Serve until the parent is gone."""
    loop = asyncio.get_running_loop()
    fake = FakeServer()
    control = Control(fake, _tls(arguments))
    await control.open()
    listener = await loop.create_server(control.connection, "127.0.0.1", 0)
    print(control.port, listener.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


def _tls(arguments: list[str]) -> ssl.SSLContext | None:
    if not arguments:
        return None
    flag, certificate, key = arguments
    assert flag == "--tls", flag
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
