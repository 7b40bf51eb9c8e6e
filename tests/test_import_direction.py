"""Imports point one way: models ← runtime ← cloud_fallback ← edge_server; quantize stands beside
cloud_fallback: only the command line, in edge_server, may import it."""

from __future__ import annotations

import ast
from collections.abc import Generator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "models": {"models"},
    "runtime": {"models", "runtime"},
    "quantize": {"models", "runtime", "quantize"},
    "cloud_fallback": {"models", "runtime", "cloud_fallback"},
    "edge_server": {"models", "runtime", "quantize", "cloud_fallback", "edge_server"},
}
OUR_FILES = sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))


def imported_modules(tree: ast.AST) -> Generator[str]:
    """Every module named by an import statement, wherever it stands; "." for a relative one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "."
        elif isinstance(node, ast.ImportFrom) and node.module == "spillover":
            yield from (f"spillover.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def wrong_imports(folder: str, source: str) -> list[str]:
    """The modules that a file in *folder* must not import but does."""
    wrong = []
    for module in imported_modules(ast.parse(source)):
        first, *rest = module.split(".")
        stray = first in ("", *MAY_IMPORT)
        upward = first == "spillover" and (not rest or rest[0] not in MAY_IMPORT[folder])
        if stray or upward:
            wrong.append(module)
    return wrong


@pytest.mark.parametrize("path", OUR_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    assert wrong_imports(folder, path.read_text("utf-8")) == []


def test_only_edge_server_imports_web_and_command_line_libraries() -> None:
    for path in OUR_FILES:
        modules = {
            name.split(".")[0] for name in imported_modules(ast.parse(path.read_text("utf-8")))
        }
        if path.relative_to(ROOT).parts[0] != "edge_server":
            assert not modules & {"flask", "werkzeug", "uvicorn", "click"}, path
        else:
            assert not modules & {"llama_cpp", "onnxruntime"}, path


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("models", "from spillover.runtime.events import Delta"),
        ("runtime", "def f():\n    import spillover.edge_server.config.config"),
        ("runtime", "from spillover import cloud_fallback"),
        ("cloud_fallback", "from spillover.quantize import anything"),
        ("edge_server", "from . import config"),
        ("edge_server", "from runtime.events import Delta"),
        ("edge_server", "import models.catalogue"),
    ],
)
def test_a_wrong_import_is_found(folder: str, source: str) -> None:
    assert wrong_imports(folder, source)
