"""A fake provider as a test sees it: a process with an address, a script and a record."""

from __future__ import annotations

import http.client
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tests.fakes.script import Act, Page, Record, Recorded, Until

ROOT = Path(__file__).parents[2]
Answer = TypeVar("Answer")


class Fake:
    """Starts when it is made; ends with stop(), or with the process that made it."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        self.port, self._control_port = map(int, self._process.stdout.readline().split())
        self.url = f"{'https' if arguments else 'http'}://127.0.0.1:{self.port}"

    def script(self, *acts: Act) -> None:
        """What the next requests get, one each; the last is for all that follow."""
        self._call("/script", list(acts), type(None))

    def show(self, pages: dict[str, Page]) -> None:
        """What a GET of each path gets; of any other path 404. It uses up no act."""
        self._call("/pages", pages, type(None))

    @property
    def record(self) -> Record:
        """What has come so far."""
        return self._call("/record", None, Record)

    @property
    def requests(self) -> list[Recorded]:
        return self.record.requests

    def wait_for(self, **until: Any) -> Record:
        """Wait until the fields of Until that are given hold."""
        assert self._call("/wait", Until(**until), bool), f"never came: {until}, {self.record}"
        return self.record

    def release(self) -> None:
        """Let the answers that hold continue."""
        self._call("/release", None, type(None))

    def refuse_connections(self) -> None:
        """As if nothing ran at this address; open connections are reset."""
        self._call("/listen", False, type(None))

    def accept_connections(self) -> None:
        self._call("/listen", True, type(None))

    def close_idle(self) -> None:
        """End the connections that carry no request, as a server does after a while."""
        self._call("/close_idle", None, type(None))

    def reset(self) -> None:
        """Forget everything."""
        self._call("/reset", None, type(None))

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)

    def _call(self, path: str, asked: object, answer: type[Answer]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._control_port, timeout=60)
        try:
            connection.request("POST", path, msgspec.json.encode(asked))
            return msgspec.json.decode(connection.getresponse().read(), type=answer)
        finally:
            connection.close()
