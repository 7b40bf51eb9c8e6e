"""A bearer token that one of the user's programs prints, as gcloud and az do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Sequence

from spillover.cloud_fallback.errors import AuthFailed
from spillover.cloud_fallback.http.errors import TimedOut
from spillover.cloud_fallback.http.exchange import Exchange, Outgoing
from spillover.cloud_fallback.http.fair_semaphore import FairSemaphore
from spillover.cloud_fallback.providers.credentials.credentials import Credentials
from spillover.cloud_fallback.providers.credentials.secret import is_header_text

LIFE_S = 300.0
"""Most tokens are valid for an hour; one that is not is renewed when it is refused."""
LONGEST_RUN_S = 20.0
STOP_TIMEOUT_S = 2.0
MAX_TOKEN_BYTES = 16 * 1024


class TokenCommand(Credentials):
    """Runs the program when a token is needed, without a shell."""

    def __init__(self, provider: str, command: Sequence[str]) -> None:
        super().__init__(provider)
        self._command = tuple(command)
        self._turn = FairSemaphore(1)
        """One program at a time, whoever needs its token."""
        self._token = ""
        self._until = 0.0
        self._is_kept = False
        """The last headers held a token from an earlier run."""

    def headers(self, outgoing: Outgoing, exchange: Exchange) -> dict[str, str]:
        with self._turn.held_for(exchange):
            self._is_kept = bool(self._token) and exchange.clock() < self._until
            if not self._is_kept:
                self._token = self._run(exchange)
                self._until = exchange.clock() + LIFE_S
            return {"authorization": f"Bearer {self._token}"}

    def renew(self) -> bool:
        if not self._is_kept:
            return False
        self._token = ""
        return True

    def _run(self, exchange: Exchange) -> str:
        """Run the program for a new token. Raises AuthFailed, Cancelled or TimedOut."""
        try:
            program = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise self._failed(f"could not be started: {error.strerror}") from error
        printed = _Printed(program)
        try:
            with exchange.within(LONGEST_RUN_S, f"a token from {self._command[0]}"):
                exchange.wait(printed.over)
        except TimedOut as error:
            exchange.check()
            raise self._failed(f"took longer than {LONGEST_RUN_S:g} s") from error
        finally:
            printed.stop()
        if program.returncode:
            raise self._failed(f"ended with exit code {program.returncode}")
        token = printed.text.decode("latin-1").strip()
        if not is_header_text(token):
            raise self._failed("printed no token")
        return token

    def _failed(self, what: str) -> AuthFailed:
        return AuthFailed(self.provider, f"token_command {self._command[0]} {what}")


class _Printed:
    """Reads a program's output in a thread, so that nobody has to wait for it."""

    def __init__(self, program: subprocess.Popen[bytes]) -> None:
        self._program = program
        self.text = b""
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="token-command", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._program.stdout is not None
        with self._program.stdout as output:
            self.text = output.read(MAX_TOKEN_BYTES)
        self._program.wait()
        self.over.set()

    def stop(self) -> None:
        """Kill the program and what it has started, if it still runs. What has left its group may
        live on and hold its output open; nobody waits for that."""
        if self._thread.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._program.pid, signal.SIGKILL)
        self._thread.join(STOP_TIMEOUT_S)
