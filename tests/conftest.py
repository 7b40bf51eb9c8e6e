"""What holds for all tests."""

from __future__ import annotations

import sys
from collections.abc import Generator

import pytest

FOLDERS = ("runtime", "quantize", "edge_server", "cloud_fallback", "models")


@pytest.fixture(autouse=True, scope="session")
def no_second_copy_of_our_modules() -> Generator[None]:
    """`python -m pytest` puts the root on sys.path, where `import runtime.x` works and makes a
    second copy of every class, which no isinstance knows."""
    yield
    stray = sorted(name for name in sys.modules if name.split(".")[0] in FOLDERS)
    assert not stray, f"write `from spillover.…` instead of importing {', '.join(stray)}"
