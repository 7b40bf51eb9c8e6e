"""Imports point one way: between the packages, between the folders in a package, between modules.

models ← runtime ← cloud_fallback ← edge_server; quantize stands beside cloud_fallback: only the
command line, in edge_server, may import it.
"""

from __future__ import annotations

import ast
from collections.abc import Generator
from functools import cache
from graphlib import CycleError, TopologicalSorter
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
LAYERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "runtime": (
        ("files",),
        ("",),
        ("machine",),
        ("fit",),
        ("conversions", "text"),
        ("tools",),
        ("chat", "embedding", "structured_output"),
        ("kv_cache", "llama", "onnx"),
        ("scheduling",),
        ("worker",),
        ("local_engine",),
        ("hosting",),
    ),
    "cloud_fallback": (
        ("",),
        ("http",),
        ("policy", "privacy", "seam", "spending"),
        ("providers",),
        ("route",),
    ),
    "edge_server": (
        ("",),
        ("calibration", "wire"),
        ("answers",),
        ("resume",),
        ("config",),
        ("web",),
        ("commands",),
        ("cli",),
    ),
}
"""Of each package the folders, and the files beside them that stand above folders; "" is all other
files beside them. Each imports from the layers before its own only, and from itself."""

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


def test_imports_point_one_way() -> None:
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in OUR_FILES
        if (found := wrong_imports(path.relative_to(ROOT).parts[0], path.read_text("utf-8")))
    }
    assert wrong == {}


def name_of(path: Path) -> str:
    """The module's dotted name, without "spillover."."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in OUR_FILES}


def imports_of(path: Path) -> set[str]:
    """Our modules that a file imports, wherever it does so, under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # "from package import module" or "from module import name"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [
                name if name.removeprefix("spillover.") in MODULES else node.module for name in full
            ]
        found |= {name.removeprefix("spillover.") for name in names}
    return found & MODULES.keys() - {name_of(path)}


@cache
def imports() -> dict[str, set[str]]:
    """What each of our modules imports of the others."""
    return {name: imports_of(path) for name, path in MODULES.items()}


def layer_of(module: str) -> tuple[str, int] | None:
    """The folder of a module, such as "runtime/llama", and the place of its layer."""
    package, *rest = module.split(".")
    layers = LAYERS.get(package)
    if layers is None:
        return None
    first = rest[0] if rest else ""
    is_folder = len(rest) > 1 or MODULES[module].name == "__init__.py"
    place = next((i for i, layer in enumerate(layers) if first in layer), None)
    if place is None:
        assert not is_folder, f"{package}/{first} is not in LAYERS: add it"
        first, place = "", next(i for i, layer in enumerate(layers) if "" in layer)
    return f"{package}/{first}", place


def test_imports_between_folders_point_one_way() -> None:
    upward = []
    for module, imported in imports().items():
        for other in imported:
            if module.split(".")[0] != other.split(".")[0]:
                continue
            ours, theirs = layer_of(module), layer_of(other)
            if ours is None or theirs is None or ours[0] == theirs[0]:
                continue
            if theirs[1] >= ours[1]:
                upward.append(f"{module} imports {other}")
    assert "\n".join(upward) == ""


HAVE_FOLDERS = sorted(
    {name.rsplit(".", n)[0] for name in MODULES for n in range(2, name.count(".") + 1)}
    - {"edge_server.commands", "edge_server.wire"}
)
"""Folders in which others stand. In the two that are left out, a file knows one of a folder whose
others know it: the store of Responses, and the job that converts a model."""


def cycle_in(edges: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring; empty when there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        ring: list[str] = error.args[1]
        return ring
    return []


def test_no_modules_import_each_other() -> None:
    assert cycle_in(imports()) == []


def parts_of(folder: str) -> dict[str, set[str]]:
    """What imports what in a folder: its folders as wholes, and the files beside them."""

    def part(module: str) -> str:
        return ".".join(module.split(".")[: folder.count(".") + 2])

    within = [name for name in MODULES if name.startswith(f"{folder}.")]
    found: dict[str, set[str]] = {part(name): set() for name in within}
    for name in within:
        found[part(name)] |= {part(other) for other in imports()[name] if part(other) in found}
    return {name: imported - {name} for name, imported in found.items()}


@pytest.mark.parametrize("folder", HAVE_FOLDERS)
def test_folders_in_a_folder_do_not_import_each_other(folder: str) -> None:
    assert cycle_in(parts_of(folder)) == []


def test_what_runs_in_a_worker_knows_nothing_of_its_supervision() -> None:
    supervision = {name for name in MODULES if name.startswith("runtime.worker.supervision")}
    inside = {name for name in MODULES if name.startswith("runtime.worker")} - supervision
    assert {name for name in inside if imports()[name] & supervision} == set()


def test_a_cycle_is_found() -> None:
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def test_only_edge_server_imports_web_and_command_line_libraries() -> None:
    for path in OUR_FILES:
        modules = {
            name.split(".")[0] for name in imported_modules(ast.parse(path.read_text("utf-8")))
        }
        if path.relative_to(ROOT).parts[0] != "edge_server":
            assert not modules & {"flask", "werkzeug", "uvicorn", "click"}, path


def test_the_library_of_a_backend_is_imported_in_one_place() -> None:
    """llama.cpp may be missing, and ONNX Runtime sends telemetry unless it is told not to."""
    importers = {
        str(path.relative_to(ROOT))
        for path in OUR_FILES
        for name in imported_modules(ast.parse(path.read_text("utf-8")))
        if name.split(".")[0] in {"llama_cpp", "onnxruntime"}
    }
    # runtime/onnx/library.py imports ONNX Runtime by its name, as no import statement would.
    assert importers == {"runtime/llama/library.py"}


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
