"""No reason is forgotten."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from spillover.cloud_fallback.policy.reason import CapacityCode, PromptCode, QualityCode


def test_every_reason_is_made_to_happen_here() -> None:
    here = Path(__file__)
    source = "".join(path.read_text() for path in here.parent.glob("test_*.py") if path != here)
    codes = [code for kind in (CapacityCode, QualityCode, PromptCode) for code in get_args(kind)]
    for code in (*codes, "user", "network", "provider", "sticky"):
        assert re.search(rf'"{code}"', source), code
