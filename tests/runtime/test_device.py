"""What the runtime finds out about the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from spillover.runtime import device
from spillover.runtime.device import available_memory

MIB = 2**20


def test_pages_of_files_do_not_count_as_used_memory_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A model's own pages used to: after some reading nothing seemed to be left.
    stat = {"anon": 20 * MIB, "file": 70 * MIB, "active_file": 30 * MIB, "inactive_file": 40 * MIB}
    (tmp_path / "memory.max").write_text(f"{100 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{95 * MIB}\n")
    (tmp_path / "memory.stat").write_text("".join(f"{k} {v}\n" for k, v in stat.items()))
    monkeypatch.setattr(device, "_cgroup_dir", lambda: tmp_path)
    assert available_memory() == 75 * MIB


def test_a_container_without_a_limit_has_the_memory_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{95 * MIB}\n")
    monkeypatch.setattr(device, "_cgroup_dir", lambda: tmp_path)
    assert available_memory() > 100 * MIB
