"""Turns a file into the graph for a session, and its layout."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct
from onnx import ModelProto

from spillover.runtime.onnx.graph.branch import with_past_alone
from spillover.runtime.onnx.graph.edit import sort_nodes
from spillover.runtime.onnx.graph.file import GraphFile, read_graph
from spillover.runtime.onnx.graph.inspect import inspect
from spillover.runtime.onnx.graph.layout import GraphLayout
from spillover.runtime.onnx.graph.patches import (
    with_asked_logits,
    with_caches_as_computed,
    with_exact_windows,
    with_integer_products,
    with_lengths,
    without_empty_inputs,
)
from spillover.runtime.onnx.graph.rewrite import rewritten_to_gqa


class Prepared(Struct, frozen=True, kw_only=True):
    """A graph ready for a session.

    Its weights in other files are relative to *folder*, which the session must be given
    (session.model_external_initializers_file_folder_path).
    """

    proto: ModelProto
    layout: GraphLayout
    folder: Path
    data_files: tuple[Path, ...]
    size_bytes: int
    changes: tuple[str, ...]
    """What was changed, for display."""


def prepare(
    path: Path,
    *,
    runtime_version: tuple[int, int],
    on_cpu: bool = True,
    query_lengths: bool = False,
    rewrite: bool = True,
    n_ctx: int | None = None,
    file: GraphFile | None = None,
) -> Prepared:
    """Read, check and change the graph of an .onnx file for this version of ONNX Runtime.

    *query_lengths*: rows may have unequal numbers of new tokens (GQA, from 1.32 on). *rewrite*:
    replace plain attention by GroupQueryAttention where a trial shows that it is the same, up to
    *n_ctx* positions. *file*: what was read of it already. Raises ModelError.
    """
    file = file or read_graph(path)
    proto = file.proto
    sort_nodes(proto)
    found = inspect(proto, on_cpu=on_cpu)
    layout = with_past_alone(proto, found)
    changes = ["one branch"] if layout != found else []
    before = layout
    layout = with_caches_as_computed(proto, layout)
    if layout != before:
        changes.append("KV cache in fp16")
    gqa = rewritten_to_gqa(proto, layout, n_ctx=n_ctx, on_cpu=on_cpu) if rewrite else None
    if gqa is not None:
        layout = gqa
        changes.append("plain attention as GroupQueryAttention")
    before = layout
    layout = with_lengths(proto, layout, query_lengths=query_lengths)
    if layout != before:
        changes.append("lengths as inputs")
    before = layout
    layout = with_asked_logits(proto, layout)
    if layout != before:
        changes.append("logits of asked positions only")
    if on_cpu and with_integer_products(proto, runtime_version):
        changes.append("integer products")
    if with_exact_windows(proto, runtime_version):
        changes.append("exact attention windows")
    without_empty_inputs(proto)
    return Prepared(
        proto=proto,
        layout=layout,
        folder=path.parent,
        data_files=file.data_files,
        size_bytes=file.size_bytes,
        changes=tuple(changes),
    )
