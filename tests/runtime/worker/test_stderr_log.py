"""Nobody waits for log lines."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from spillover.runtime.worker.stderr_log import StderrLog

_PROGRAM = """
import logging, sys
from spillover.runtime.worker.stderr_log import StderrLog
logging.basicConfig(level="INFO", handlers=[StderrLog(most=10)])
for number in range(2_000):
    logging.info("line %d %s", number, "." * 200)
print("through", flush=True)
sys.stdin.readline()
logging.info("the last line")
"""


def test_a_pipe_that_nobody_reads_stops_no_thread_and_missing_lines_are_counted() -> None:
    """The caller used to wait in the middle of a line for ever."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.readline() == "through\n"
        program.stdin.write("\n")
        program.stdin.close()
        lines = program.stderr.readlines()
        assert program.wait(60) == 0
    missing = [int(line.split()[1]) for line in lines if "lines are missing here" in line]
    assert missing
    assert sum(line.startswith("INFO root: ") for line in lines) + sum(missing) == 2_001


def test_a_process_ends_although_nobody_reads_its_log() -> None:
    """Python aborts when a thread of a process that ends holds the lock of stderr's buffer."""
    read_end, write_end = os.pipe()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stderr=write_end
        ) as program:
            program.communicate(b"\n", timeout=60)
        assert program.returncode == 0
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_line_is_there_when_the_process_ends(capfd: pytest.CaptureFixture[str]) -> None:
    log = logging.Logger("ours")
    log.addHandler(handler := StderrLog())
    log.warning("half a pair: %s", "\ud800")
    handler.close()
    assert capfd.readouterr().err == "WARNING ours: half a pair: \\ud800\n"
