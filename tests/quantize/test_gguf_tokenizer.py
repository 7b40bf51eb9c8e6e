"""The vocabulary of a GGUF file becomes a tokenizer that cuts text as llama.cpp does."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from spillover.models.catalogue import default_model
from spillover.models.gguf_header import read_header
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.from_gguf.source import VOCABULARY_KEYS
from spillover.quantize.onnx_export.from_gguf.splits import SPLITS
from spillover.quantize.onnx_export.from_gguf.tokenizer import build_tokenizer
from spillover.quantize.onnx_export.from_gguf.vocabulary import read_vocabulary
from spillover.quantize.onnx_export.options import ExportOptions
from tests import tiny_gguf, tiny_models
from tests.many_scripts import MANY_SCRIPTS, PIECES
from tests.storyteller import STORYTELLER

RULES = ("default", "gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35", "tekken", "gpt-4o")
"""One split of each kind."""
SENTENCE_PIECE: dict[str, Any] = {
    "spm": {},
    "spm-bare": {"add_space_prefix": False},
    "spm-phi": {"name": "Phi-3 mini"},
}
TEXTS = [MANY_SCRIPTS, *PIECES, "", " ", "trailing space ", "\n", " \n\n\n  \n x"]


def as_llama_cpp(path: Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(path), vocab_only=True, verbose=False)


def converted(path: Path) -> Tokenizer:
    return build_tokenizer(read_vocabulary(read_header(path, keep=VOCABULARY_KEYS)))[0]


def write(folder: Path, name: str) -> Path:
    path = folder / f"{name}.gguf"
    if name in SENTENCE_PIECE:
        return tiny_gguf.write_sentence_piece(path, **SENTENCE_PIECE[name])
    return tiny_gguf.write_byte_level(path, name)


Pair = tuple[llama_cpp.Llama, Tokenizer]


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    folder = tmp_path_factory.mktemp("vocabularies")
    paths = {name: write(folder, name) for name in (*SPLITS, *SENTENCE_PIECE)}
    return {name: (as_llama_cpp(path), converted(path)) for name, path in paths.items()}


def assert_same(pair: Pair, text: str) -> None:
    reference, tokenizer = pair
    wanted = reference.tokenize(text.encode(), add_bos=False, special=True)
    assert tokenizer.encode(text, add_special_tokens=False).ids == wanted, text


@pytest.mark.parametrize("name", [*SPLITS, *SENTENCE_PIECE])
def test_text_is_cut_as_llama_cpp_cuts_it(name: str, vocabularies: dict[str, Pair]) -> None:
    for text in TEXTS:
        assert_same(vocabularies[name], text)


def test_the_text_tells_all_rules_apart(vocabularies: dict[str, Pair]) -> None:
    cuts = sorted(vocabularies[name][1].encode(MANY_SCRIPTS).ids for name in RULES)
    assert all(one != other for one, other in pairwise(cuts))


@pytest.mark.parametrize("name", [*RULES, "spm", "spm-bare"])
def test_any_text_is_cut_as_llama_cpp_cuts_it(name: str, vocabularies: dict[str, Pair]) -> None:
    special = (*tiny_gguf.SPECIAL, *tiny_gguf.DEFINED, "<s>", "</s>", "<0x41>", "▁")

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.sampled_from([*MANY_SCRIPTS, *special]), max_size=16).map("".join))
    def check(text: str) -> None:
        assert_same(vocabularies[name], text)

    check()


@pytest.mark.parametrize("text", ["<|user|>\n Hi<|end|>\n<|user|> a", "<s> a</s>  b", "<unk> c"])
def test_special_tokens_of_phi_3_take_the_spaces_behind_them(
    text: str, vocabularies: dict[str, Pair]
) -> None:
    assert_same(vocabularies["spm-phi"], text)


@pytest.mark.parametrize("name", [*SPLITS, "spm"])
def test_bos_is_added_when_llama_cpp_adds_it(name: str, vocabularies: dict[str, Pair]) -> None:
    reference, tokenizer = vocabularies[name]
    wanted = reference.tokenize(b"Work", add_bos=True, special=True)
    assert tokenizer.encode("Work").ids == wanted


@pytest.mark.parametrize("name", ["gpt-2", "qwen2", "spm"])
def test_tokens_become_the_text_again(name: str, vocabularies: dict[str, Pair]) -> None:
    tokenizer, text = vocabularies[name][1], "Größe, cafe\u0301's 日本語 ١٢ 🦊"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=60))
def test_the_storytellers_tokenizer_agrees_with_its_original(text: str) -> None:
    original = Tokenizer.from_file(str(STORYTELLER / "tokenizer.json"))
    assert STORY_TOKENIZER.encode(text).ids == original.encode(text).ids


STORY_TOKENIZER = converted(default_model().path)


def test_a_tokenizer_that_is_not_known_is_asked_for(tmp_path: Path) -> None:
    path = tiny_gguf.write_byte_level(tmp_path / "m.gguf", "kimi-k2")
    with pytest.raises(ExportError, match=r"'kimi-k2'.*--tokenizer"):
        converted(path)


def test_a_tokenizer_can_be_given(tmp_path: Path) -> None:
    path = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS["llama"])
    tiny_models.write(tmp_path / "original", tiny_models.CONFIGS["llama"])
    options = ExportOptions(tokenizer=tmp_path / "original")
    export(path, tmp_path / "out", options, lambda n_done, n_all: None)
    given = (tmp_path / "original" / "tokenizer.json").read_bytes()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == given
