"""A Hugging Face folder: config.json and safetensors files."""

from __future__ import annotations

from pathlib import Path

import msgspec

from spillover.quantize.onnx_export.blocks import Blocks, Floats
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_hf.config import read_config
from spillover.quantize.onnx_export.from_hf.safetensors_file import SafetensorsFile
from spillover.quantize.onnx_export.from_hf.spec import spec_of
from spillover.quantize.onnx_export.spec import ModelSpec

_OF_IMAGES = ("vision_tower.", "multi_modal_projector.")
_IMAGES = "only the model's part for text is exported: it will not see images"
_INDEX = "model.safetensors.index.json"


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class HfSource:
    """Weights as trained. Raises ExportError when the folder is not complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_config(_read(folder / "config.json"))
        self.spec: ModelSpec = spec_of(self.config)
        self.notes: tuple[str, ...] = ()
        self._files: dict[str, tuple[SafetensorsFile, str]] = {}
        for path in _weight_files(folder):
            file = SafetensorsFile(path)
            for stored in file.names():
                name = _text_name(stored)
                if name is None:
                    self.notes = (_IMAGES,)
                    continue
                if name in self._files:
                    raise ExportError(f"{path} has {stored[:80]!r}, which is also in another file")
                if not name.endswith("rotary_emb.inv_freq"):
                    self._files[name] = file, stored

    def names(self) -> frozenset[str]:
        return frozenset(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        file, stored = self._files[name]
        return file.shape(stored)

    def dtype(self, name: str) -> str:
        """The type in which the tensor is stored, such as BF16."""
        file, stored = self._files[name]
        return file.dtype(stored)

    def release(self) -> None:
        """Let the system take back the memory of what was read."""
        for file in {file for file, _ in self._files.values()}:
            file.release()

    def values(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        file, stored = self._files[name]
        values = file.values(stored, start, stop)
        if self.spec.family.stores_norms_less_one and name.endswith("norm.weight"):
            values += 1
        return values

    def exact_bits(self, name: str) -> int | None:
        return None

    def blocks(self, name: str, bits: int) -> Blocks | None:
        return None


def _text_name(stored: str) -> str | None:
    """The name of a tensor without the names of what is around the decoder; None for one that sees
    images."""
    name = stored.removeprefix("language_model.").removeprefix("model.")
    if name.startswith(_OF_IMAGES):
        return None
    return name.removeprefix("language_model.")


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
