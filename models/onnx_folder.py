"""Finds the graph, the tokenizer and the settings of an ONNX model among the files of a folder.

The names are those of optimum, transformers.js and onnxruntime-genai. Only names are checked here;
the runtime reads the graph itself.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path

from msgspec import Struct

from spillover.models import onnx_package
from spillover.models.errors import ModelFileError
from spillover.models.small_files import decode_json, read_small

_PRECISIONS = ("q4", "q4f16", "int8", "quantized", "uint8", "", "fp16", "bnb4")
"""Suffixes of transformers.js, best for a CPU first."""

_STEMS = ("model", "decoder_model_merged", "decoder_with_past_model")


class OnnxModelFiles(Struct, frozen=True, kw_only=True):
    """Where the parts of a model are."""

    graph: Path
    """The .onnx file."""
    root: Path
    """The folder with tokenizer.json and the settings."""
    package: Path | None = None
    """The folder of all builds of the model, if there are several."""

    @property
    def name(self) -> str:
        """What to call the model: its folder's name, with the graph's when that says more."""
        stem, folder = self.graph.stem, self.package or self.root
        if stem in _STEMS:
            return folder.name
        return f"{folder.name}-{stem.removeprefix('model_')}"

    @property
    def files(self) -> list[Path]:
        """The graph and the files beside it that are named after it: its weights."""
        return sorted(self.graph.parent.glob(f"{self.graph.name}*"))

    @property
    def size_bytes(self) -> int:
        """Bytes of the graph and of its weights."""
        return sum(path.stat().st_size for path in self.files)

    def read(self, name: str) -> bytes | None:
        """The content of a small file of the root, or beside the graph; None when there is none."""
        content = read_small(self.root / name)
        if content is None and self.graph.parent != self.root:
            return read_small(self.graph.parent / name)
        return content


class _Decoder(Struct, frozen=True):
    filename: str = ""


class _GenaiModel(Struct, frozen=True):
    decoder: _Decoder = _Decoder()


class _GenaiConfig(Struct, frozen=True):
    model: _GenaiModel = _GenaiModel()


def is_onnx(path: Path) -> bool:
    """Whether *path* is an ONNX file that exists, or a folder with one."""
    if path.is_dir() and onnx_package.is_package(path):
        return True
    if path.is_dir():
        return next(path.glob("*.onnx"), next(path.glob("onnx/*.onnx"), None)) is not None
    return path.suffix.lower() == ".onnx" and path.is_file()


def find(path: Path) -> OnnxModelFiles:
    """The parts of the model in a folder, or of the one whose .onnx file is named.

    Raises ModelFileError.
    """
    if path.is_dir() and onnx_package.is_package(path):
        variant = onnx_package.cpu_variant(path)
        root = onnx_package.tokenizer_folder(path, variant)
        return OnnxModelFiles(graph=_graph_in(variant), root=root, package=path)
    graph = _graph_in(path) if path.is_dir() else path
    if not graph.is_file():
        raise ModelFileError(f"{graph} does not exist: give an .onnx file or its folder")
    return OnnxModelFiles(graph=graph, root=_root_of(graph))


def _graph_in(folder: Path) -> Path:
    named = _named_by_genai(folder)
    if named is not None:
        return named
    best = next((name for name in _graph_names() if (folder / name).is_file()), None)
    if best is not None:
        return folder / best
    others = sorted(path for path in folder.glob("*.onnx") if path.is_file())
    if len(others) == 1:
        return others[0]
    if others:
        found = ", ".join(path.name for path in others)
        raise ModelFileError(
            f"the folder {folder} has several graphs ({found}): give the path of one"
        )
    raise ModelFileError(f"there is no ONNX model in the folder {folder}")


def _named_by_genai(folder: Path) -> Path | None:
    path = folder / "genai_config.json"
    content = read_small(path)
    if content is None:
        return None
    name = decode_json(content, _GenaiConfig, path).model.decoder.filename
    if not name:
        return None
    if Path(name).name != name:
        raise ModelFileError(f"{path} names the graph {name!r}, which is not in its folder")
    return folder / name


def best_graph(names: Container[str]) -> str | None:
    """The one of these paths, relative to a folder, that a known exporter writes and that is best
    for a CPU."""
    return next((name for name in _graph_names() if name in names), None)


def _graph_names() -> Iterator[str]:
    for place in ("onnx/", ""):
        for stem in _STEMS:
            for precision in _PRECISIONS:
                yield f"{place}{stem}_{precision}.onnx" if precision else f"{place}{stem}.onnx"


def _root_of(graph: Path) -> Path:
    for folder in (graph.parent, graph.parent.parent):
        if (folder / "tokenizer.json").is_file():
            return folder
    return graph.parent
