"""`import spillover`: every public name is there, and nothing is loaded before it is used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import spillover

SOURCE = Path(__file__).parent.parent / "__init__.py"


def in_a_new_process(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_importing_loads_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import spillover; print(*set(sys.modules)-before)"
    )
    assert in_a_new_process(code).split() == ["spillover"]


@pytest.mark.parametrize("name", spillover.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(spillover, name) is not None
    assert name in dir(spillover)


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    for_checkers = {
        alias.name: node.module
        for node in ast.walk(ast.parse(SOURCE.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("spillover.")
        for alias in node.names
    }
    found = {
        name: f"spillover.{module}"
        for module, names in spillover._MODULES.items()
        for name in names
    }
    assert for_checkers == found


@pytest.mark.parametrize("path", ["README.md", "docs/library.md", "docs/embeddings.md"])
def test_examples_import_public_names(path: str) -> None:
    text = SOURCE.parent.joinpath(path).read_text("utf-8")
    for example in re.findall(r"```python\n(.*?)```", text, re.S):
        nodes = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.ImportFrom)]
        ours = [node for node in nodes if (node.module or "").startswith("spillover")]
        assert {node.module for node in ours} == {"spillover"}
        assert {alias.name for node in ours for alias in node.names} <= set(spillover.__all__)


def test_the_page_about_programs_names_what_is_public() -> None:
    text = SOURCE.parent.joinpath("docs/library.md").read_text("utf-8")
    named = set(re.findall(r"`([A-Z][A-Za-z]+)(?=[`(])", text))
    assert named <= set(spillover.__all__)


def test_a_name_that_is_not_there_is_the_usual_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'LocalEngin'"):
        getattr(spillover, "LocalEngin")  # noqa: B009  # type checkers know that it is missing
