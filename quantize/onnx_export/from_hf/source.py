"""A Hugging Face folder: config.json and safetensors files."""

from __future__ import annotations

from pathlib import Path

import msgspec

from spillover.quantize.onnx_export.blocks import Blocks, Floats
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_hf.safetensors_file import SafetensorsFile
from spillover.quantize.onnx_export.from_hf.spec import read_spec
from spillover.quantize.onnx_export.spec import ModelSpec

_INDEX = "model.safetensors.index.json"


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class HfSource:
    """Weights as trained. Raises ExportError when the folder is not complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec: ModelSpec = read_spec(_read(folder / "config.json"))
        self._files: dict[str, tuple[SafetensorsFile, str]] = {}
        for path in _weight_files(folder):
            file = SafetensorsFile(path)
            for stored in file.names():
                name = stored.removeprefix("model.")
                if name in self._files:
                    raise ExportError(f"{path} has {stored[:80]!r}, which is also in another file")
                if not name.endswith("rotary_emb.inv_freq"):
                    self._files[name] = file, stored

    def names(self) -> frozenset[str]:
        return frozenset(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        file, stored = self._files[name]
        return file.shape(stored)

    def values(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        file, stored = self._files[name]
        return file.values(stored, start, stop)

    def exact_bits(self, name: str) -> int | None:
        return None

    def blocks(self, name: str, bits: int) -> Blocks | None:
        return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror or error}") from error


def _weight_files(folder: Path) -> list[Path]:
    """One file, or all that the index names."""
    if not (folder / _INDEX).is_file():
        if not (folder / "model.safetensors").is_file():
            raise ExportError(
                f"{folder} has no model.safetensors: give a Hugging Face model folder with "
                "safetensors weights, or a .gguf file"
            )
        return [folder / "model.safetensors"]
    try:
        index = msgspec.json.decode(_read(folder / _INDEX), type=_Index)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ExportError(f"{folder / _INDEX} is damaged: {error}") from error
    names = sorted(set(index.weight_map.values()))
    if any(Path(name).name != name for name in names):
        raise ExportError(f"{folder / _INDEX} names files outside its folder")
    return [folder / name for name in names]
