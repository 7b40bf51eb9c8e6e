"""A worker process as its parent sees it: two pipes, a reader thread, a guaranteed end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable

from spillover.runtime.machine.memory import OomKills
from spillover.runtime.machine.system_files import SystemFiles
from spillover.runtime.worker import protocol
from spillover.runtime.worker.environment import environment
from spillover.runtime.worker.exits import EXIT_SHORTAGE, KILLED
from spillover.runtime.worker.supervision.command_writer import CommandWriter

_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); "
    "from spillover.runtime.worker.exits import exit_on_error; "
    "exit_on_error(lambda: __import__('spillover.runtime.worker.worker', fromlist=['main']).main())"
)

_QUIT_TIMEOUT_S = 5.0


class WorkerProcess:
    """Starts a worker at once. *on_report* is called in the reader thread, then *on_end* with
    the exit status (negative: the signal that ended it), exactly once."""

    def __init__(
        self,
        order: protocol.Load,
        on_report: Callable[[protocol.Report], None],
        on_end: Callable[[int], None],
    ) -> None:
        self._on_report = on_report
        self._on_end = on_end
        first_frame = protocol.encode(order)
        self._oom_kills = OomKills(SystemFiles())
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment(order.choice.engine),
            # Its own group, so that the terminal's Ctrl-C reaches the parent only.
            process_group=0 if os.name == "posix" else None,
        )
        assert self._process.stdin is not None
        self._commands = CommandWriter(self._process.stdin)
        self._commands.write(first_frame)
        self._reader = threading.Thread(target=self._read, name="worker-reader", daemon=True)
        try:
            self._commands.start()
            self._reader.start()
        except RuntimeError:  # its end would go unnoticed
            self._commands.close()
            with self._process:
                self._process.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: protocol.Command) -> None:
        """Send a command without waiting for the worker to read it. A worker that has ended is
        reported by on_end, not here."""
        self.send_frame(protocol.encode(message))

    def send_frame(self, frame: bytes) -> None:
        self._commands.write(frame)

    def quit(self) -> None:
        """Ask the worker to end, and kill it if it does not; returns when it has ended."""
        self.send(protocol.Quit())
        try:
            self._process.wait(_QUIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        if threading.current_thread() is not self._reader:
            self._reader.join(_QUIT_TIMEOUT_S)

    def look_at_oom_kills(self) -> None:
        """To be called again and again, so that only one that has just come may be its end."""
        self._oom_kills.look()

    def kill(self) -> None:
        self._process.kill()

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        with open(stdout.fileno(), "rb", 1 << 16, closefd=False) as stream:
            try:
                while (body := protocol.read_frame(stream)) is not None:
                    self._on_report(protocol.decode_report(body))
            finally:
                # Its output can no longer be read, so it must not go on alone.
                self._process.kill()
                status = self._status(self._process.wait())
                self._commands.close()
                stdout.close()
                self._on_end(status)

    def _status(self, status: int) -> int:
        """EXIT_SHORTAGE where the system has ended the worker because memory ran out."""
        is_oom_kill = status == KILLED and self._oom_kills.are_new
        return EXIT_SHORTAGE if is_oom_kill else status
