"""Graphs of optimum, transformers.js and onnxruntime-genai: what becomes of them at load computes
what they computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spillover.runtime.onnx.graph.inspect import inspect
from spillover.runtime.onnx.graph.prepare import prepare
from tests.onnx_sessions import VERSION, divergence, masked_logits, ragged_logits
from tests.runtime.onnx.graph.real_exports import IDS, NAMES, loaded, unpacked

WEIGHTS = {
    "genai/llama": "int4 in blocks of 32",
    "genai/qwen2": "int4 in blocks of 32",
    "optimum/llama": "fp32",
    "transformers_js/llama-fp16": "fp16",
    "transformers_js/llama-q4": "int4 in blocks of 32",
    "transformers_js/llama-q8": "int8",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_graph_gives_the_logits_of_the_original(name: str, tmp_path: Path) -> None:
    if name == "genai/qwen3" and VERSION < (1, 23):
        pytest.skip("this version has no GatherBlockQuantized with 8 bits")
    if name == "torch/llama-opset23" and VERSION < (1, 24):
        pytest.skip("this version does not know opset 23")
    path = unpacked(name, tmp_path)
    prepared = prepare(path, runtime_version=VERSION)
    size = prepared.layout.caches[0].shape[3]
    original = masked_logits(path, IDS, n_per_head=size)
    found = ragged_logits(prepared.proto.SerializeToString(), IDS, [17, 1, 9], n_per_head=size)
    if "q" in name.partition("-")[2]:
        # Activations are rounded to 8 bits, by products that the original leaves in fp32.
        assert divergence(original, found) < 0.05
    else:
        tolerance = 0.05 if "f" in name.partition("-")[2] else 2e-4
        np.testing.assert_allclose(found, original, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_every_one_gets_shared_buffers_and_asked_logits(name: str, tmp_path: Path) -> None:
    layout = prepare(unpacked(name, tmp_path), runtime_version=VERSION).layout
    assert (layout.attention, layout.logits_form) == ("gqa", "asked")
    assert layout.inputs.mask is None
    assert layout.inputs.seqlens_k == "seqlens_k"
    assert layout.inputs.positions == (None if name.startswith("genai") else "position_ids")
    assert layout.n_layer == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_layout_is_that_of_the_changed_graph(name: str, tmp_path: Path) -> None:
    prepared = prepare(unpacked(name, tmp_path), runtime_version=VERSION)
    assert inspect(prepared.proto) == prepared.layout


@pytest.mark.parametrize(("name", "weights"), WEIGHTS.items())
def test_weights_are_named(name: str, weights: str) -> None:
    assert inspect(loaded(name)).weights == weights


def test_plain_attention_can_be_left_as_it_is(tmp_path: Path) -> None:
    prepared = prepare(unpacked("optimum/llama", tmp_path), runtime_version=VERSION, rewrite=False)
    assert prepared.layout.attention == "growing"
    assert prepared.layout.logits_form == "asked"


def test_a_window_of_attention_is_found_in_the_graph(tmp_path: Path) -> None:
    prepared = prepare(unpacked("optimum/mistral", tmp_path), runtime_version=(1, 32))
    windows = {
        attribute.i
        for node in prepared.proto.graph.node
        for attribute in node.attribute
        if attribute.name == "local_window_size"
    }
    assert windows == {11}


def test_a_runtime_that_counts_windows_from_zero_gets_one_less(tmp_path: Path) -> None:
    prepared = prepare(unpacked("optimum/mistral", tmp_path), runtime_version=(1, 22))
    assert "exact attention windows" in prepared.changes
    windows = {
        attribute.i
        for node in prepared.proto.graph.node
        for attribute in node.attribute
        if attribute.name == "local_window_size"
    }
    assert windows == {10}


@pytest.mark.skipif(VERSION < (1, 32), reason="this version does not know query_seqlens")
def test_rows_of_unequal_numbers_of_new_tokens_can_be_asked_for(tmp_path: Path) -> None:
    path = unpacked("genai/llama", tmp_path)
    prepared = prepare(path, runtime_version=VERSION, query_lengths=True)
    assert prepared.layout.inputs.query_lengths == "query_seqlens"
    assert inspect(prepared.proto) == prepared.layout
