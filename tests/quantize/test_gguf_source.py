"""GGUF files become graphs with the same weights, and tokenizers that cut text the same way."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from spillover.edge_server import cli
from spillover.models.catalogue import default_model
from spillover.models.gguf_header import read_header
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.from_gguf.source import VOCABULARY_KEYS, GgufSource
from spillover.quantize.onnx_export.from_gguf.tokenizer import build_tokenizer
from spillover.quantize.onnx_export.from_gguf.vocabulary import read_vocabulary
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.split_source import SplitSource
from tests import tiny_gguf, tiny_models
from tests.onnx_sessions import divergence, ragged_logits
from tests.storyteller import STORYTELLER

SPLITS = ("gpt-2", "llama-bpe", "qwen2", "smollm", "tekken", "smaug-bpe")
TEXTS = (
    "Once upon a time, there's a dog; it'll bark. DON'T! We'Re",
    "  two  spaces,\ttabs\t\tand\n\n\nlines \n  x \r\n\r\n y",
    "12345 6 78 3.14159 v1.2.3-rc4 0x1F",
    "Größe, naïve café — Ελληνικά, русский, 日本語のテキスト, 한국어",
    "🦊👩‍👩‍👧 x² ½ ٣٤ ...!?!?//* #include <x.h>",
    "",
    " ",
    "trailing space ",
    "CamelCaseWords anHTTPServer ΑΒΓδε",
)


def as_llama_cpp(path: Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(path), vocab_only=True, verbose=False)


def converted(path: Path) -> Tokenizer:
    return build_tokenizer(read_vocabulary(read_header(path, keep=VOCABULARY_KEYS)))[0]


@pytest.fixture(scope="module")
def vocabularies(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[llama_cpp.Llama, Tokenizer]]:
    folder = tmp_path_factory.mktemp("vocabularies")
    paths = {split: tiny_gguf.write_byte_level(folder / f"{split}.gguf", split) for split in SPLITS}
    paths["spm"] = tiny_gguf.write_sentence_piece(folder / "spm.gguf")
    paths["spm-bare"] = tiny_gguf.write_sentence_piece(
        folder / "spm-bare.gguf", add_space_prefix=False
    )
    return {name: (as_llama_cpp(path), converted(path)) for name, path in paths.items()}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", [*SPLITS, "spm", "spm-bare"])
def test_text_is_cut_as_llama_cpp_cuts_it(
    name: str, text: str, vocabularies: dict[str, tuple[llama_cpp.Llama, Tokenizer]]
) -> None:
    reference, tokenizer = vocabularies[name]
    wanted = reference.tokenize(text.encode(), add_bos=False, special=True)
    assert tokenizer.encode(text, add_special_tokens=False).ids == wanted


@pytest.mark.parametrize("name", [*SPLITS, "spm"])
def test_bos_is_added_when_llama_cpp_adds_it(
    name: str, vocabularies: dict[str, tuple[llama_cpp.Llama, Tokenizer]]
) -> None:
    reference, tokenizer = vocabularies[name]
    wanted = reference.tokenize(b"Work", add_bos=True, special=True)
    assert tokenizer.encode("Work").ids == wanted


@pytest.mark.parametrize("name", ["gpt-2", "spm"])
@pytest.mark.parametrize("text", TEXTS[:4])
def test_tokens_become_the_text_again(
    name: str, text: str, vocabularies: dict[str, tuple[llama_cpp.Llama, Tokenizer]]
) -> None:
    tokenizer = vocabularies[name][1]
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=60))
def test_the_storytellers_tokenizer_agrees_with_its_original(text: str) -> None:
    original = Tokenizer.from_file(str(STORYTELLER / "tokenizer.json"))
    assert STORY_TOKENIZER.encode(text).ids == original.encode(text).ids


STORY_TOKENIZER = converted(default_model().path)


@pytest.mark.parametrize(
    ("kind", "bits"), [("Q8_0", 8), ("Q4_0", 4), ("Q4_0", 8)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("name", ["llama", "qwen2", "phi3"])
def test_blocks_are_taken_over_to_the_last_bit(
    kind: str, bits: int, name: str, tmp_path: Path
) -> None:
    path = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS[name], kind)
    source = SplitSource(GgufSource(path))
    for tensor in source.names():
        if len(source.shape(tensor)) == 2:
            blocks = source.blocks(tensor, bits)
            assert blocks is not None
            np.testing.assert_array_equal(blocks.values(), source.values(tensor))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1", "F16"])
def test_any_type_can_be_exported(kind: str, tmp_path: Path) -> None:
    path = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS["llama"], kind)
    whole, small = tmp_path / "fp32", tmp_path / "int8"
    export(path, whole, ExportOptions(weights="fp32"), lambda n_done, n_all: None)
    export(path, small, ExportOptions(weights="int8"), lambda n_done, n_all: None)
    logits = [ragged_logits(f / "model.onnx", tiny_models.IDS, [40]) for f in (whole, small)]
    assert divergence(*logits) < 0.05


def bits_of_products(graph: Path) -> list[int]:
    nodes = onnx.load(graph).graph.node
    products = [node for node in nodes if node.op_type == "MatMulNBits"]
    found = {
        attribute.i for node in products for attribute in node.attribute if attribute.name == "bits"
    }
    return sorted(found)


@pytest.mark.parametrize(
    ("kind", "bits"), [("Q8_0", [8]), ("Q4_0", [4]), ("Q4_1", [8]), ("Q5_1", [8]), ("F16", [4, 8])]
)
def test_a_quantized_file_keeps_its_weights_unless_asked_otherwise(
    kind: str, bits: list[int], tmp_path: Path
) -> None:
    path = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS["llama"], kind)
    exported = export(path, tmp_path / "out", ExportOptions(), lambda n_done, n_all: None)
    assert bits_of_products(tmp_path / "out" / "model.onnx") == bits
    assert not [note for note in exported.notes if "rounds" in note]


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
@pytest.mark.parametrize("name", ["llama", "smollm", "qwen3"])
def test_a_faithful_export_holds_the_stored_weights_to_the_last_bit(
    name: str, kind: str, tmp_path: Path
) -> None:
    path = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS[name], kind)
    logits = []
    for weights in ("faithful", "fp32"):
        options = ExportOptions(weights=weights)
        export(path, tmp_path / weights, options, lambda n_done, n_all: None)
        proto = onnx.load(tmp_path / weights / "model.onnx")
        for node in proto.graph.node:  # sums of products in fp32, as a reference
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 1
        logits.append(ragged_logits(proto.SerializeToString(), tiny_models.IDS, [40]))
    np.testing.assert_allclose(logits[0], logits[1], atol=2e-4)


def test_rounding_rounded_weights_again_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("Q4_1", "Q4_0"):
        tiny_gguf.write_model(tmp_path / f"{kind}.gguf", tiny_models.CONFIGS["llama"], kind)
    for kind, weights in (("Q4_1", "int4"), ("Q4_1", "int8"), ("Q4_0", "int4")):
        target = tmp_path / f"{kind}-{weights}"
        arguments = [str(tmp_path / f"{kind}.gguf"), str(target), "--weights", weights]
        assert cli.run(["export", "onnx", *arguments]) == 0
        is_warned = "rounds weights again that the file stores in Q4_1" in capsys.readouterr().err
        assert is_warned == ((kind, weights) == ("Q4_1", "int4"))


def test_a_tokenizer_that_is_not_known_is_asked_for(tmp_path: Path) -> None:
    path = tiny_gguf.write_byte_level(tmp_path / "m.gguf", "falcon3")
    with pytest.raises(ExportError, match=r"'falcon3'.*--tokenizer"):
        converted(path)


def test_a_tokenizer_can_be_given(tmp_path: Path) -> None:
    path = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS["llama"])
    tiny_models.write(tmp_path / "original", tiny_models.CONFIGS["llama"])
    options = ExportOptions(tokenizer=tmp_path / "original")
    export(path, tmp_path / "out", options, lambda n_done, n_all: None)
    given = (tmp_path / "original" / "tokenizer.json").read_bytes()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == given
