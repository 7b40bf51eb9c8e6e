"""What differs between a file and its conversion is told: weights, tokenizer, logits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from spillover.quantize.conversion import convert
from spillover.quantize.conversion.compare import prepare
from spillover.quantize.conversion.fidelity import fidelity_of, logits_divergence
from spillover.quantize.conversion.weights import weights_difference
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.export import Exported, export, open_source
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.runtime.backend import Backend, Logits, Rows
from spillover.runtime.conversions.choice import look_up
from spillover.runtime.conversions.record import MOST_DIVERGENCE
from spillover.runtime.conversions.store import ConversionStore
from spillover.runtime.llama.opening.opening import open_gguf
from spillover.runtime.onnx.opening import open_onnx
from spillover.runtime.options import EngineOptions
from tests import tiny_gguf, tiny_models
from tests.quantize.conversion.preparing import BUNDLED, copy_in, everything_in, options_in, silent

SMALL = EngineOptions(
    n_ctx=1024, n_kv=4096, n_parallel=4, n_prefix_cached=0, n_threads=1, adapt_threads=False
)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "F16"])
def test_every_kind_of_weights_is_as_true_as_the_file(kind: str, tmp_path: Path) -> None:
    """Random weights exaggerate what rounding costs, so that only exact forms are near."""
    path = tiny_gguf.write_model(
        tmp_path / "m.gguf", tiny_models.CONFIGS["llama"], kind, merges=[("a", "b")]
    )
    options = options_in(tmp_path)
    prepare(path, options, silent, measures=False)
    conversion = look_up(path, options).conversion
    assert conversion is not None
    assert conversion.fidelity is not None
    assert conversion.fidelity.difference == ""
    assert conversion.fidelity.divergence < 0.05


@pytest.fixture(scope="module")
def as_gguf() -> Iterator[Backend]:
    backend = open_gguf(BUNDLED, SMALL).backend
    yield backend
    backend.close()


def test_coarser_weights_are_told_apart(as_gguf: Backend, tmp_path: Path) -> None:
    found = {}
    for name, options in (
        ("exact", ExportOptions(weights="faithful")),
        ("coarse", ExportOptions(weights="int4", head_bits=4)),
    ):
        export(BUNDLED, tmp_path / name, options, lambda n, n_all: None)
        backend = open_onnx(tmp_path / name, SMALL).backend
        found[name], n_positions = logits_divergence(as_gguf, backend)
        assert n_positions > 30
        for each in (as_gguf, backend):  # both are left empty
            each.decode([Rows(0, 0, np.zeros(1, np.int32), True)])
            each.keep(0, 0)
        backend.close()
    assert found["coarse"] > 5 * found["exact"]


class WrongTogether:
    """A backend that is wrong about all but the first of several sequences in one call."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def logits(self, output: int) -> Logits:
        logits = self._backend.logits(output)
        return logits[::-1] if output else logits


def test_several_sequences_in_one_call_are_compared_too(as_gguf: Backend, tmp_path: Path) -> None:
    """Only one was, although both libraries have other kernels for many rows."""
    export(BUNDLED, tmp_path / "onnx", ExportOptions(weights="faithful"), lambda n, n_all: None)
    with closing(open_onnx(tmp_path / "onnx", SMALL).backend) as backend:
        wrong = cast(Backend, WrongTogether(backend))
        assert fidelity_of(as_gguf, backend).fault == ""
        assert "its logits differ" in fidelity_of(as_gguf, wrong).fault


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("file", "values", "word"),
    [
        ("tokenizer_config.json", {"add_bos_token": True}, "begin with BOS"),
        ("tokenizer_config.json", {"chat_template": "{{ messages }}"}, "the chat template"),
        ("tokenizer_config.json", {"eos_token": "dog"}, "the EOS token"),
        ("generation_config.json", {"eos_token_id": 777}, "token 777 ends an answer"),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "cuts the text"),
    ],
)
def test_another_tokenizer_is_told_apart(
    file: str, values: dict[str, object], word: str, as_gguf: Backend, tmp_path: Path
) -> None:
    export(BUNDLED, tmp_path / "onnx", ExportOptions(), lambda n, n_all: None)
    edit(tmp_path / "onnx" / file, **values)
    backend = open_onnx(tmp_path / "onnx", SMALL).backend
    assert word in fidelity_of(as_gguf, backend).fault
    backend.close()


Tensors = dict[str, onnx.TensorProto]


def put(proto: onnx.TensorProto, values: Any) -> None:
    proto.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), proto.name))


def swap_layers(tensors: Tensors) -> None:
    for name, proto in tensors.items():
        if name.startswith("layers.1."):
            other = tensors[name.replace("layers.1.", "layers.2.")]
            one, two = numpy_helper.to_array(proto), numpy_helper.to_array(other)
            put(proto, two)
            put(other, one)


def double_a_scale(tensors: Tensors) -> None:
    scales = numpy_helper.to_array(tensors["layers.1.up.scales.half"]).copy()
    scales[7, 1] *= 2
    put(tensors["layers.1.up.scales.half"], scales)


def turn_a_bit(tensors: Tensors) -> None:
    blocks = numpy_helper.to_array(tensors["embedding.blocks"]).copy()
    blocks[100, 0, 5] ^= 16
    put(tensors["embedding.blocks"], blocks)


def change_a_norm(tensors: Tensors) -> None:
    weight = numpy_helper.to_array(tensors["norm.weight"]).copy()
    weight[3] = 0
    put(tensors["norm.weight"], weight)


def change(folder: Path, damage: Callable[[Tensors], None]) -> None:
    model = onnx.load(folder / "model.onnx")
    damage({proto.name: proto for proto in model.graph.initializer})
    onnx.save(model, folder / "model.onnx")


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (swap_layers, "layers.1."),
        (double_a_scale, "layers.1.mlp.up_proj.weight"),
        (turn_a_bit, "embed_tokens.weight"),
        (change_a_norm, "norm.weight"),
    ],
)
def test_a_conversion_with_one_wrong_tensor_is_not_used(
    damage: Callable[[Tensors], None],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The logits of a text tell of the first one only."""
    path, options = copy_in(tmp_path)

    def damaged(*arguments: Any) -> Exported:
        exported = export(*arguments)
        change(exported.folder, damage)
        return exported

    monkeypatch.setattr(convert, "export", damaged)
    with pytest.raises(ExportError, match=f"its {name}.* is not that of the file"):
        prepare(path, options, silent, measures=False)
    assert everything_in(ConversionStore(options.cache_dir)) == set()
    note = look_up(path, options).note
    assert note is not None
    assert "is not that of the file" in note.refusal


def test_swapped_layers_show_in_the_logits(as_gguf: Backend, tmp_path: Path) -> None:
    export(BUNDLED, tmp_path / "onnx", ExportOptions(), lambda n, n_all: None)
    change(tmp_path / "onnx", swap_layers)
    with closing(open_onnx(tmp_path / "onnx", SMALL).backend) as backend:
        assert logits_divergence(as_gguf, backend)[0] > MOST_DIVERGENCE


@pytest.mark.parametrize("config", sorted(tiny_models.CONFIGS))
def test_the_weights_of_every_family_are_found(config: str, tmp_path: Path) -> None:
    path = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS[config], "F16")
    export(path, tmp_path / "onnx", ExportOptions(weights="faithful"), lambda n, n_all: None)
    source = SplitSource(open_source(path))
    assert weights_difference(source, tmp_path / "onnx") == ""
    change(tmp_path / "onnx", lambda tensors: put(tensors["norm.weight"], np.zeros(64, "f4")))
    assert "norm.weight" in weights_difference(source, tmp_path / "onnx")


def test_a_window_that_is_longer_than_the_text_is_compared_too(tmp_path: Path) -> None:
    """Whatever happened beyond it was not seen."""
    config = {**tiny_models.CONFIGS["gemma3"], "sliding_window": 400}
    path = tiny_gguf.write_model(
        tmp_path / "m.gguf", {**config, "max_position_embeddings": 1024}, "Q8_0"
    )
    export(path, tmp_path / "onnx", ExportOptions(weights="faithful"), lambda n, n_all: None)
    found = []
    with closing(open_gguf(path, SMALL).backend) as llama:
        for is_right in (True, False):
            model = onnx.load(tmp_path / "onnx" / "model.onnx")
            for node in model.graph.node:
                for attribute in node.attribute:
                    if attribute.name == "local_window_size" and attribute.i > 0 and not is_right:
                        attribute.i = -1
            onnx.save(model, tmp_path / "onnx" / "model.onnx")
            with closing(open_onnx(tmp_path / "onnx", SMALL).backend) as backend:
                found.append(logits_divergence(llama, backend, 400)[0])
    assert found[1] > 2 * found[0]


def test_a_model_that_was_stretched_far_is_compared_as_it_is_served(tmp_path: Path) -> None:
    """llama.cpp was asked for fewer tokens than the model was first trained for, and had its other
    rotary positions (LongRoPE)."""
    config = {
        **tiny_models.CONFIGS["phi3-long"],
        "original_max_position_embeddings": 5_000,
        "max_position_embeddings": 8_192,
    }
    path, options = tiny_gguf.write_model(tmp_path / "m.gguf", config, "Q8_0"), options_in(tmp_path)
    prepare(path, options, silent, measures=False)
    conversion = look_up(path, options).conversion
    assert conversion is not None
    assert conversion.fidelity is not None
    assert (conversion.n_short, conversion.fidelity.difference) == (5_000, "")
    assert conversion.fidelity.divergence < MOST_DIVERGENCE
