"""CONTRIBUTING.md names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("models", "runtime", "cloud_fallback", "edge_server", "quantize", "tests", "docs")
FILES = [f"/{path.relative_to(ROOT)}" for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*")]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`([a-z][a-z_0-9/.]*(?:\.py|\.md|/))`", TEXT)))


@pytest.mark.parametrize("name", NAMED)
def test_a_file_that_is_named_is_there(name: str) -> None:
    """It may be named by the end of its path."""
    assert any(path.endswith(f"/{name.rstrip('/')}") for path in FILES)
