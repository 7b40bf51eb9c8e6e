"""The statement of spending as JSON."""

from __future__ import annotations

from typing import Any

from spillover.cloud_fallback.spending.limits import StatementLine
from spillover.cloud_fallback.spending.prices import NANO


def listed(lines: list[StatementLine]) -> dict[str, Any]:
    return {"object": "list", "data": [_line(line) for line in lines]}


def _line(line: StatementLine) -> dict[str, Any]:
    return {
        "provider": line.provider,
        "period": line.period,
        "until": line.until.isoformat(),
        "usd": {
            "spent": line.spent.nano_usd / NANO,
            "reserved": line.reserved.nano_usd / NANO,
            "limit": None if line.limit_nano_usd is None else line.limit_nano_usd / NANO,
        },
        "tokens": {
            "spent": line.spent.tokens,
            "reserved": line.reserved.tokens,
            "limit": line.limit_tokens,
        },
    }
