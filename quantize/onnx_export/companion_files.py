"""The files beside the graph: tokenizer, chat template, config.json, generation_config.json."""

from __future__ import annotations

import shutil
from pathlib import Path

from spillover.models.errors import ModelFileError
from spillover.models.onnx_folder import OnnxModelFiles
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_gguf.companions import write_config, write_gguf_companions
from spillover.quantize.onnx_export.from_gguf.source import GgufSource
from spillover.quantize.onnx_export.from_hf.source import HfSource
from spillover.quantize.onnx_export.genai_config import write_genai_config
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.runtime.errors import ModelError

_REQUIRED = ("config.json", "tokenizer.json")
_OPTIONAL = (
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def write(
    source: HfSource | GgufSource, options: ExportOptions, folder: Path, *, n_ctx: int
) -> list[str]:
    """Write them all; return notes for the user. Raises ExportError."""
    notes: list[str] = []
    if isinstance(source, HfSource):
        _copy(source.folder, folder, _REQUIRED)
    elif options.tokenizer is None:
        notes += write_gguf_companions(source, folder)
    else:
        _copy(options.tokenizer, folder, ("tokenizer.json",))
        write_config(source, folder)
    if options.interface == "genai":
        write_genai_config(source.spec, folder, n_ctx=n_ctx)
    return notes


def check(folder: Path) -> None:
    """Check that this project's runtime reads them. Raises ExportError."""
    from spillover.runtime.onnx.settings import read_settings  # slow
    from spillover.runtime.onnx.tokenizer import OnnxTokenizer

    files = OnnxModelFiles(graph=folder / "model.onnx", root=folder)
    try:
        OnnxTokenizer(files, read_settings(files))
    except (ModelError, ModelFileError) as error:
        raise ExportError(f"Spillover could not run the new model: {error}") from error


def _copy(source: Path, folder: Path, required: tuple[str, ...]) -> None:
    for name in (*required, *_OPTIONAL):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
        elif name in required:
            raise ExportError(
                f"{source} has no {name}: the exported model would lack it. Older models have "
                "only a tokenizer.model; transformers' save_pretrained writes tokenizer.json"
            )
