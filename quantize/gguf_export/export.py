"""Writes a GGUF file from a Hugging Face folder: completely or not at all."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
from msgspec import Struct

from spillover.models.gguf_header import Value
from spillover.models.libraries import has_llama
from spillover.models.onnx_folder import OnnxModelFiles
from spillover.quantize.child import Child, Progress
from spillover.quantize.export_check import ExportOrder, check_export
from spillover.quantize.gguf.file_types import FILE_TYPES
from spillover.quantize.gguf_export.loadable import check_loadable
from spillover.quantize.gguf_export.metadata import Described
from spillover.quantize.gguf_export.tensors import (
    StoredTensor,
    plan_tensors,
    weights_of,
    write_tensor,
)
from spillover.quantize.gguf_export.vocabulary import describe
from spillover.quantize.new_file import new_file
from spillover.quantize.onnx_export.from_hf.source import HfSource
from spillover.quantize.onnx_export.source import check
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.quantize.verification import N_CTX, Verdict

GgufType = Literal["auto", "F32", "F16", "BF16", "Q8_0"]
_QUANTIZATION_VERSION = 2
_OF_PHI3 = ("<unk>", "<s>", "<|endoftext|>")


class Exported(Struct, frozen=True, kw_only=True):
    """What was written."""

    path: Path
    size_bytes: int
    n_params: int
    notes: tuple[str, ...]
    """What the user should know."""
    verdict: Verdict | None
    """None: not compared with the folder."""


class Checked(Struct, frozen=True, kw_only=True):
    """A folder of which a GGUF file can be made."""

    source: HfSource
    described: Described
    tensors: list[StoredTensor]
    vocabulary: dict[str, Value]


class CheckOrder(Struct, frozen=True, kw_only=True):
    """A new file, and the folder that it was made of."""

    path: Path
    folder: Path


def export(
    folder: Path, target: Path, kind: GgufType, progress: Progress, *, is_checked: bool = True
) -> Exported:
    """Write *target* completely or not at all; unless *is_checked* is False, it must load, write,
    and predict what the folder's weights do. Raises ExportError, ModelError, QuantizeError."""
    checked = check_folder(folder, kind)
    source, described, tensors = checked.source, checked.described, checked.tensors
    vocabulary = checked.vocabulary
    metadata: dict[str, Value] = {
        **described.metadata,
        "general.name": _name(source, folder, vocabulary),
        "general.type": "model",
        "general.file_type": _file_type(tensors),
        "general.quantization_version": _QUANTIZATION_VERSION,
        **vocabulary,
    }
    n_bytes, verdict = sum(tensor.n_bytes for tensor in tensors), None
    n_params = sum(int(np.prod(tensor.shape)) for tensor in tensors)
    with new_file(target, n_bytes) as scratch:
        _write(scratch, source, metadata, described, tensors, progress)
        notes = [*source.notes, *described.notes, *_other_types(tensors, kind)]
        if has_llama() and is_checked:
            order = CheckOrder(path=scratch, folder=folder)
            with Child() as child:
                notes += child.call(check_tokens, order, progress, scratch=scratch)
            check = ExportOrder(source=folder, target=scratch, n_ctx=min(N_CTX, source.spec.n_ctx))
            verdict = check_export(check, 8 * n_bytes / n_params, progress, scratch=scratch)
            if verdict is None:
                notes.append("the new file was not compared with the folder: memory is short")
    return Exported(
        path=target,
        size_bytes=target.stat().st_size,
        n_params=n_params,
        notes=tuple(notes),
        verdict=verdict,
    )


def check_folder(folder: Path, kind: GgufType) -> Checked:
    """Find out whether a GGUF file can be made of *folder*. Raises ExportError."""
    source = HfSource(folder)
    check(SplitSource(source))
    described = Described(source.config, source.spec)
    files = OnnxModelFiles(graph=folder / "model.onnx", root=folder)
    tensors = plan_tensors(source, kind)
    check_loadable(source.spec, [*described.divisors, *(tensor.name for tensor in tensors)])
    vocabulary = describe(files, source.spec.n_vocab)
    return Checked(source=source, described=described, tensors=tensors, vocabulary=vocabulary)


def check_tokens(order: CheckOrder, progress: Progress) -> list[str]:
    """What llama.cpp's tokenizer does in another way than the folder's. Raises ModelError for a
    file that does not load."""
    from spillover.quantize.conversion.fidelity import token_difference
    from spillover.runtime.llama.opening.opening import open_gguf
    from spillover.runtime.onnx.settings import read_settings
    from spillover.runtime.onnx.tokenizer import OnnxTokenizer
    from spillover.runtime.options import EngineOptions

    progress("checking", 0, 1)
    files = OnnxModelFiles(graph=order.folder / "model.onnx", root=order.folder)
    options = EngineOptions(
        n_ctx=16, n_kv=16, n_parallel=1, n_prefix_cached=0, n_threads=1, n_gpu_layers=0,
        second_layout="off", use_extra_bufts=False,
    )  # fmt: skip
    with closing(open_gguf(order.path, options).backend) as backend:
        difference = token_difference(backend, OnnxTokenizer(files, read_settings(files)))
    progress("checking", 1, 1)
    return [f"of the new file and tokenizer.json: {difference}"] if difference else []


def _write(
    path: Path,
    source: HfSource,
    metadata: dict[str, Value],
    described: Described,
    tensors: list[StoredTensor],
    progress: Progress,
) -> None:
    import gguf  # slow

    writer = gguf.GGUFWriter(path, str(metadata["general.architecture"]))
    with closing(writer):
        for key, value in metadata.items():
            if key != "general.architecture":  # the writer has put it
                _add(writer, key, value)
        for name, values in described.divisors.items():
            writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
        for tensor in tensors:
            writer.add_tensor_info(
                tensor.name,
                tensor.shape,
                np.dtype(np.float32),
                tensor.n_bytes,
                gguf.GGMLQuantizationType[tensor.kind],
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        (file,) = writer.fout
        writer.write_padding(file, file.tell())
        for values in described.divisors.values():
            file.write(values.tobytes())
            writer.write_padding(file, values.nbytes)
        weights = weights_of(source)
        for number, tensor in enumerate(tensors):
            progress("exporting", number, len(tensors))
            write_tensor(weights, tensor, file)
            writer.write_padding(file, tensor.n_bytes)
            source.release()
        progress("exporting", len(tensors), len(tensors))


def _add(writer: Any, key: str, value: Value) -> None:
    adders = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    getattr(writer, f"add_{adders[type(value)]}")(key, value)


def _other_types(tensors: list[StoredTensor], kind: str) -> list[str]:
    """A note on matrices that have another type than was asked for."""
    if kind == "auto":
        return []
    others = [one for one in tensors if one.kind != kind and len(one.shape) > 1]
    if not others:
        return []
    return [
        f"{len(others)} matrices with rows that blocks of {kind} do not divide become "
        f"{others[0].kind}: the first is {others[0].name}"
    ]


def _file_type(tensors: list[StoredTensor]) -> int:
    """That of the largest part."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.n_bytes
    return FILE_TYPES[max(sizes, key=lambda kind: sizes[kind])]


def _name(source: HfSource, folder: Path, vocabulary: dict[str, Value]) -> str:
    """The folder's name. llama.cpp lets tokens of Phi-3 take the spaces behind them, and knows
    Phi-3 by its name; it then needs certain tokens."""
    name, tokens = folder.resolve().name, vocabulary["tokenizer.ggml.tokens"]
    has_its_tokens = isinstance(tokens, list) and {*_OF_PHI3} <= {*tokens}
    is_phi3 = source.spec.architecture == "phi3" and has_its_tokens
    return f"Phi-3 {name}" if is_phi3 and "phi-3" not in name.lower() else name
