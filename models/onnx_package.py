"""Model packages of ONNX Runtime: several builds of a model in one folder, listed by manifest.json.

Format: onnxruntime-genai, docs/model_package.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from spillover.models.errors import ModelFileError
from spillover.models.small_files import decode_json, read_small

_DIGEST = re.compile(r"sha256:(?P<hex>[0-9a-f]{8,64})(?:/(?P<tail>.*))?")
_T = TypeVar("_T")
_CPU = {"", "cpu", "CPUExecutionProvider"}


class _Variant(Struct, frozen=True):
    ep: str = ""
    variant_directory: str = ""


class _Component(Struct, frozen=True):
    variants: dict[str, _Variant] = {}


class _Manifest(Struct, frozen=True):
    components: dict[str, _Component] = {}


class _Model(Struct, frozen=True):
    tokenizer_dir: str = ""


class _GenaiConfig(Struct, frozen=True):
    model: _Model = _Model()


def is_package(folder: Path) -> bool:
    """Whether the folder lists builds; one with a genai_config.json of its own is a plain model."""
    manifest = folder / "manifest.json"
    return manifest.is_file() and not (folder / "genai_config.json").exists()


def cpu_variant(package: Path) -> Path:
    """The folder of the build for the CPU. Raises ModelFileError when there is none."""
    manifest = _read(package / "manifest.json", _Manifest)
    component = manifest.components.get("model")
    if component is None or not component.variants:
        raise ModelFileError(f"{package / 'manifest.json'} lists no builds of the model")
    for name, variant in component.variants.items():
        if variant.ep in _CPU:
            return _inside(package, package, variant.variant_directory or name)
    providers = ", ".join(sorted({variant.ep for variant in component.variants.values()}))
    raise ModelFileError(
        f"the package {package} has no build for the CPU, only for {providers}: get a CPU build"
    )


def tokenizer_folder(package: Path, variant: Path) -> Path:
    """The folder of the build's tokenizer. Raises ModelFileError."""
    name = _read(variant / "genai_config.json", _GenaiConfig).model.tokenizer_dir
    digest = _DIGEST.fullmatch(name)
    if digest is None:
        return _inside(package, variant, name) if name else variant
    shared = package / "shared_assets" / f"sha256-{digest['hex']}"
    return _inside(package, shared, digest["tail"] or ".")


def _inside(package: Path, folder: Path, name: str) -> Path:
    """The path of *name* in *folder*, which must not lead out of the package."""
    parts = Path(name).parts
    if ".." in parts or Path(name).is_absolute() or "\\" in name:
        raise ModelFileError(f"{package} names {name[:200]!r}, which is not in the package")
    return folder / name


def _read(path: Path, kind: type[_T]) -> _T:
    content = read_small(path)
    if content is None:
        raise ModelFileError(f"{path} is missing: download the whole package")
    return decode_json(content, kind, path)
