"""Work in a child process ends well, or leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spillover.quantize.child import Child, call_in_child
from spillover.quantize.errors import QuantizeError
from tests.quantize.child_work import Sum, add, die, hang, open_model, pid, refuse

SUM = Sum(left=2, right=3, path=Path("x"))


def silent(what: str, n_done: int, n_all: int) -> None:
    pass


def test_the_result_and_each_step_come_back() -> None:
    steps: list[tuple[str, int, int]] = []
    assert call_in_child(add, SUM, lambda *step: steps.append(step)) == 5
    assert steps == [("adding", 1, 1)]


def test_an_error_comes_back_with_its_words() -> None:
    with pytest.raises(QuantizeError, match="2 is too much"):
        call_in_child(refuse, SUM, silent)


def test_what_is_wrong_with_a_file_comes_back_too() -> None:
    with pytest.raises(QuantizeError, match="there is no file x"):
        call_in_child(open_model, SUM, silent)


def test_one_process_computes_one_call_after_the_other() -> None:
    with Child() as child:
        first = child.call(pid, SUM, silent)
        with pytest.raises(QuantizeError):
            child.call(refuse, SUM, silent)
        assert child.call(pid, SUM, silent) == first != os.getpid()


def test_a_crash_is_an_error() -> None:
    with pytest.raises(QuantizeError, match="was ended by SIGKILL"):
        call_in_child(die, SUM, silent)


def test_a_child_that_loses_its_parent_removes_what_it_began(tmp_path: Path) -> None:
    path = tmp_path / "half"
    code = (
        "from pathlib import Path; from tests.quantize.child_work import Sum, hang; "
        "from spillover.quantize.child import Child; import sys; path = Path(sys.argv[1]); "
        "Child().call(hang, Sum(left=1, right=1, path=path), "
        "lambda *step: print('now', flush=True), scratch=path)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        assert parent.stdout.readline() == b"now\n"
        assert path.exists()
        parent.kill()
        # The child has inherited it: its end is the child's.
        assert parent.stderr.read() == b""
    assert not path.exists()


def test_a_child_ends_with_what_interrupts_its_parent(tmp_path: Path) -> None:
    def stop(what: str, n_done: int, n_all: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_in_child(hang, Sum(left=1, right=1, path=tmp_path / "half"), stop)
