"""Finds the tokens for filling in the middle by the names that model families give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spillover.runtime.engine import FimTokens

_PREFIX = (
    "<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "<PRE>", "\u2581<PRE>", "<|code_prefix|>",
    "<\uff5cfim\u2581begin\uff5c>",
)  # fmt: skip
_SUFFIX = (
    "<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "<SUF>", "\u2581<SUF>", "<|code_suffix|>",
    "<\uff5cfim\u2581hole\uff5c>",
)  # fmt: skip
_MIDDLE = (
    "<|fim_middle|>", "<fim_middle>", "<fim-middle>", "<MID>", "\u2581<MID>", "<|code_middle|>",
    "<\uff5cfim\u2581end\uff5c>",
)  # fmt: skip
_REPO = ("<|fim_repo|>", "<|repo_name|>", "<reponame>", "<repo_name>")
_FILE = ("<|file_sep|>", "<file_sep>")


def find_fim(id_of: Callable[[str], int | None]) -> FimTokens | None:
    """None when the model lacks one of the three required tokens."""
    prefix, suffix, middle = (_first(id_of, names) for names in (_PREFIX, _SUFFIX, _MIDDLE))
    if prefix is None or suffix is None or middle is None:
        return None
    return FimTokens(
        prefix=prefix,
        suffix=suffix,
        middle=middle,
        repo=_first(id_of, _REPO),
        file=_first(id_of, _FILE),
    )


def _first(id_of: Callable[[str], int | None], names: Sequence[str]) -> int | None:
    return next((token for name in names if (token := id_of(name)) is not None), None)
