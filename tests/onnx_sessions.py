"""Running exported graphs in tests, as the runtime does: buffers that are past and present."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Before the first import: the library reports home otherwise.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from spillover.quantize.onnx_export.blocks import Blocks
from spillover.runtime.onnx.feeds import feeds
from spillover.runtime.onnx.graph.patches import with_exact_windows, without_empty_inputs
from spillover.runtime.onnx.graph.prepare import Prepared

VERSION = (int(onnxruntime.__version__.split(".")[0]), int(onnxruntime.__version__.split(".")[1]))

Logits = npt.NDArray[np.float32]
_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
}


def session(model: Path | bytes) -> Any:
    """A session for a model as it is, but for what its version cannot do."""
    if isinstance(model, Path) and VERSION < (1, 24):
        proto = onnx.load(model)
        with_exact_windows(proto, VERSION)
        without_empty_inputs(proto)
        model = proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(model) if isinstance(model, Path) else model,
        options,
        providers=["CPUExecutionProvider"],
    )


def ragged_logits(
    model: Path | bytes,
    ids: npt.NDArray[np.int64],
    chunks: Sequence[int],
    *,
    n_ctx: int = 128,
    n_per_head: int | None = None,
) -> Logits:
    """The logits of all positions, read in *chunks* and, when those are used up, one by one.

    *n_per_head*: for graphs that do not say it.
    """
    sizes, running = list(chunks), session(model)
    past = _past(running, n_ctx, n_per_head)
    rows, start = [], 0
    while start < len(ids):
        n = sizes.pop(0) if sizes else 1
        rows.append(_step(running, past, ids[start : start + n], start))
        start += n
    return np.concatenate(rows)


def sampled(
    model: Path, ids: npt.NDArray[np.int64], n_tokens: int, *, temperature: float, seed: int
) -> npt.NDArray[np.int64]:
    """*ids* and *n_tokens* more that the model draws."""
    running, random = session(model), np.random.default_rng(seed)
    past, start = _past(running, len(ids) + n_tokens, None), 0
    while n_tokens:
        row = _step(running, past, ids[start:], start)[-1:]
        shares = np.exp(_log_softmax(row / temperature))[0]
        start, n_tokens = len(ids), n_tokens - 1
        ids = np.append(ids, random.choice(len(shares), p=shares / shares.sum()))
    return ids


def _past(running: Any, n_ctx: int, n_per_head: int | None) -> dict[str, Any]:
    return {
        given.name: onnxruntime.OrtValue.ortvalue_from_numpy(
            np.zeros((1, given.shape[1], n_ctx, n_per_head or given.shape[3]), _DTYPES[given.type])
        )
        for given in running.get_inputs()
        if given.name.startswith("past")
    }


def _step(running: Any, past: dict[str, Any], ids: npt.NDArray[np.int64], start: int) -> Logits:
    n_seen = start + len(ids)
    binding = running.io_binding()
    binding.bind_cpu_input("input_ids", ids[None].copy())
    binding.bind_cpu_input("seqlens_k", np.array([n_seen - 1], np.int32))
    binding.bind_cpu_input("total_sequence_length", np.array(n_seen, np.int32))
    binding.bind_cpu_input("logits_rows", np.arange(len(ids)))
    if any(given.name == "position_ids" for given in running.get_inputs()):
        binding.bind_cpu_input("position_ids", np.arange(start, n_seen)[None])
    for name, cache in past.items():
        binding.bind_ortvalue_input(name, cache)
        binding.bind_ortvalue_output(name.replace("past_key_values", "present"), cache)
    binding.bind_output("logits")
    running.run_with_iobinding(binding)
    return np.array(binding.get_outputs()[-1].numpy())


def masked_logits(
    model: Path | bytes, ids: npt.NDArray[np.int64], *, n_per_head: int | None = None
) -> Logits:
    """The logits of all positions of a graph with attention_mask, read at once."""
    running = session(model)
    feed: dict[str, npt.NDArray[Any]] = {
        "input_ids": ids[None],
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids))[None],
        "use_cache_branch": np.array([False]),
    }
    for given in running.get_inputs():
        if given.name.startswith("past"):
            shape = (1, given.shape[1], 0, n_per_head or given.shape[3])
            feed[given.name] = np.zeros(shape, _DTYPES[given.type])
    names = {given.name for given in running.get_inputs()}
    feed = {name: value for name, value in feed.items() if name in names}
    found = running.run(["logits"], feed)[0][0]
    return np.asarray(found, np.float32)


def prepared_logits(
    prepared: Prepared, ids: npt.NDArray[np.int64], chunks: Sequence[int], *, n_ctx: int = 64
) -> Logits:
    """The logits of each chunk's last position, with a KV cache as the layout wants it."""
    layout = prepared.layout
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    folder = "session.model_external_initializers_file_folder_path"
    options.add_session_config_entry(folder, str(prepared.folder))
    running = onnxruntime.InferenceSession(prepared.proto.SerializeToString(), options)
    shared = layout.attention != "growing"
    past: dict[str, npt.NDArray[Any]] = {}
    for cache in layout.caches:
        shape = [n or 1 for n in cache.shape]
        shape[cache.length_axis] = n_ctx if shared else 0
        past[cache.past] = np.zeros(shape, cache.dtype)
    rows, start = [], 0
    names = [layout.logits, *(cache.present for cache in layout.caches)]
    for size in chunks:
        tokens = ids[start : start + size].astype(np.int32)
        found = running.run(names, {**feeds(layout.inputs, [tokens], [start]), **past})
        rows.append(np.asarray(found[0], np.float32).reshape(-1, found[0].shape[-1])[-1])
        past = {c.past: array for c, array in zip(layout.caches, found[1:], strict=True)}
        start += size
    return np.stack(rows)


def divergence(reference: Logits, found: Logits) -> float:
    """Mean Kullback-Leibler divergence over the rows, in nats."""
    wanted, got = _log_softmax(reference), _log_softmax(found)
    return float((np.exp(wanted) * (wanted - got)).sum(-1).mean())


def _log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    total: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return total


def product_of_blocks(x: Logits, blocks: Blocks) -> Logits:
    """x · matrixᵀ by MatMulNBits; x keeps 8 bits or more."""
    points = blocks.packed_zero_points()
    weights: dict[str, npt.NDArray[Any]] = {"blocks": blocks.packed, "scales": blocks.scales}
    if points is not None:
        weights["points"] = points
    node = helper.make_node(
        "MatMulNBits",
        ["x", *weights],
        ["y"],
        domain="com.microsoft",
        N=len(blocks.packed),
        K=blocks.n_values,
        bits=blocks.bits,
        block_size=blocks.block,
        # 1.22 has no other product with 8 bits.
        accuracy_level=4 if blocks.bits == 8 else 0,
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return np.asarray(session(model.SerializeToString()).run(None, {"x": x})[0], np.float32)
