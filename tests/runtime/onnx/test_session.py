"""Sessions: threads that spin or sleep, numbers flushed to zero, memory as it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from spillover.models.catalogue import find
from spillover.runtime.onnx.runners.lazy_memory import LazyMemory
from spillover.runtime.onnx.session import session_options
from spillover.runtime.onnx.spinning import is_spinning_faster

DENORMALS = """
import sys, threading
from pathlib import Path
import numpy as np
from tests.loading import load
from spillover.runtime.options import EngineOptions

smallest = np.full(64, 1e-39, dtype=np.float32)
assert (smallest * np.float32(0.5) > 0).all()
load(Path(sys.argv[1]), "storyteller", EngineOptions(n_threads=1))
thread = threading.Thread(target=lambda: print((smallest * np.float32(0.5)).max()))
thread.start()
thread.join()
"""


def test_one_thread_has_nothing_to_spin_for() -> None:
    assert not is_spinning_faster(1)


def test_two_threads_try_whether_spinning_pays() -> None:
    assert is_spinning_faster(2) in (True, False)


def test_threads_that_spin_soon_go_to_sleep() -> None:
    # They used to spin for a second, on cores that other programs needed.
    options = session_options(2, spins=True)
    assert int(options.get_session_config_entry("session.intra_op.spin_duration_us")) <= 100
    resting = session_options(2, spins=False)
    assert resting.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_thread_that_is_made_after_loading_flushes_denormals_as_the_decode_loop_must() -> None:
    command = [sys.executable, "-c", DENORMALS, str(find("storyteller-onnx").path)]
    assert subprocess.check_output(command, text=True).strip() == "0.0"


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_memory_is_taken_when_it_is_written_and_given_back() -> None:
    size = 1 << 40  # more than any machine of the tests has
    before = resident_bytes()
    memory = LazyMemory(size)
    assert resident_bytes() - before < 8 << 20
    memory.bytes[size // 2 : size // 2 + (64 << 20)] = 7
    assert resident_bytes() - before > 60 << 20
    memory.discard(size // 2 + 1000, (64 << 20) - 1000)
    assert resident_bytes() - before < 8 << 20
    assert memory.bytes[size // 2 + 999] == 7
    assert memory.bytes[size // 2 + 8192] == 0
