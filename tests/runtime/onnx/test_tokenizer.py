"""Tokenizers and settings beside an ONNX graph, of the kinds that model families have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from spillover.models.errors import ModelFileError
from spillover.models.onnx_folder import OnnxModelFiles
from spillover.quantize.onnx_export.calibrated.tokens import N_CHUNK, tokens_of
from spillover.runtime.errors import InvalidRequest, ModelError
from spillover.runtime.onnx.embedding.settings import read_embedding_settings
from spillover.runtime.onnx.settings import read_settings
from spillover.runtime.onnx.tokenizer import OnnxTokenizer

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def sentence_piece() -> Tokenizer:
    """As Llama 2's: blanks as U+2581, unknown characters as their bytes, <s> in front."""
    words = ["<unk>", "<s>", "</s>", *BYTES, "\u2581", "a", "b", "\u2581a", "ab"]
    vocabulary = {word: i for i, word in enumerate(words)}
    merges = [("\u2581", "a"), ("a", "b")]
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def metaspace() -> Tokenizer:
    """As a Unigram model of SentencePiece."""
    words = [("<unk>", 0.0), ("</s>", 0.0), ("\u2581", -2.0), ("a", -2.0), ("\u2581ab", -1.0)]
    tokenizer = Tokenizer(models.Unigram([*words, ("b", -2.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    return tokenizer


def folder(root: Path, tokenizer: Tokenizer, **files: Any) -> OnnxModelFiles:
    """*files*: JSON values by the file's stem."""
    tokenizer.save(str(root / "tokenizer.json"))
    for stem, content in files.items():
        (root / f"{stem}.json").write_text(json.dumps(content))
    return OnnxModelFiles(graph=root / "model.onnx", root=root)


def opened(files: OnnxModelFiles) -> OnnxTokenizer:
    return OnnxTokenizer(files, read_settings(files))


def text_of(tokenizer: OnnxTokenizer, text: str) -> bytes:
    tokens = tokenizer.tokenize(text, add_special=False, parse_special=False)
    return b"".join(map(tokenizer.token_bytes, tokens.tolist()))


def test_unknown_characters_are_spelled_in_exact_bytes(tmp_path: Path) -> None:
    tokenizer = opened(folder(tmp_path, sentence_piece()))
    assert text_of(tokenizer, "ab \u00e9\U0001f98a a") == " ab \u00e9\U0001f98a a".encode()


def test_a_byte_token_in_mid_character_is_that_byte(tmp_path: Path) -> None:
    tokenizer = opened(folder(tmp_path, sentence_piece()))
    token = 3 + 0xF0
    assert tokenizer.token_bytes(token) == b"\xf0"


def test_metaspace_is_a_blank_and_an_added_word_is_itself(tmp_path: Path) -> None:
    tokenizer = opened(folder(tmp_path, metaspace()))
    assert text_of(tokenizer, "ab ab") == b" ab ab"
    think = tokenizer.tokenize("<think>", add_special=False, parse_special=True).tolist()
    assert tokenizer.token_bytes(think[-1]) == b"<think>"


def test_the_tokenizers_own_bos_goes_in_front(tmp_path: Path) -> None:
    files = folder(tmp_path, sentence_piece(), tokenizer_config={"bos_token": "<s>"})
    tokenizer = opened(files)
    assert tokenizer.add_bos
    assert tokenizer.tokenize("a", add_special=True, parse_special=False).tolist()[0] == 1
    assert 1 not in tokenizer.tokenize("a", add_special=False, parse_special=False).tolist()


@pytest.mark.parametrize(("add", "first"), [(True, 1), (False, 3 + 256 + 3)])
def test_a_setting_about_bos_goes_before_the_tokenizers_habit(
    tmp_path: Path, add: bool, first: int
) -> None:
    config = {"bos_token": {"content": "<s>"}, "add_bos_token": add}
    tokenizer = opened(folder(tmp_path, sentence_piece(), tokenizer_config=config))
    assert tokenizer.add_bos == add
    assert tokenizer.tokenize("a", add_special=True, parse_special=False).tolist()[0] == first


@pytest.mark.parametrize("by", ["setting", "post-processor"])
def test_no_token_that_ends_a_text_goes_behind_a_prompt(tmp_path: Path, by: str) -> None:
    tokenizer = sentence_piece()
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_eos_token": by == "setting"}
    if by == "post-processor":
        ends = [("<s>", 1), ("</s>", 2)]
        tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    found = opened(folder(tmp_path, tokenizer, tokenizer_config=config))
    plain = found.tokenize("a", add_special=False, parse_special=False).tolist()
    assert found.tokenize("a", add_special=True, parse_special=False).tolist() == [1, *plain]


def test_every_file_may_name_a_token_that_ends_an_answer(tmp_path: Path) -> None:
    tokenizer = sentence_piece()
    tokenizer.add_special_tokens(["<|eot_id|>", "<|other|>"])
    end_of_turn, other = (tokenizer.token_to_id(t) for t in ("<|eot_id|>", "<|other|>"))
    files = folder(
        tmp_path,
        tokenizer,
        config={"eos_token_id": 7},
        generation_config={"eos_token_id": [8, 9]},
        genai_config={"model": {"eos_token_id": [10]}},
        tokenizer_config={"eos_token": "</s>"},
    )
    found = opened(files)
    assert found.eog_tokens == {7, 8, 9, 10, 2, end_of_turn}
    assert other is not None
    assert not found.is_eog(other)
    assert found.eos_text == "</s>"


def test_a_text_that_the_vocabulary_cannot_spell_is_refused(tmp_path: Path) -> None:
    """It ended the worker, and interrupted all answers."""
    tokenizer = Tokenizer(models.Unigram([("a", -1.0), ("\u2581", -2.0)]))
    tokenizer.decoder = decoders.Metaspace()
    found = opened(folder(tmp_path, tokenizer))
    assert text_of(found, "a") == b"a"
    with pytest.raises(InvalidRequest, match="tokenizer cannot read the text"):
        text_of(found, "\u00e9")


def test_a_negative_id_stands_for_no_token(tmp_path: Path) -> None:
    """The worker ended with an internal error, or put the token -1 before a prompt."""
    config = {"bos_token_id": -1, "eos_token_id": [-1, 7]}
    files = folder(tmp_path, metaspace(), config=config, tokenizer_config={"add_bos_token": True})
    found = opened(files)
    assert found.eog_tokens == {7}
    assert (found.add_bos, found.bos_text) == (False, "")


@pytest.mark.parametrize("beside", ["<|return|>", "<|calls|>", None])
def test_what_ends_a_part_of_an_answer_does_not_end_it(tmp_path: Path, beside: str | None) -> None:
    """gpt-oss in the ONNX format used to end with its reasoning."""
    tokenizer = sentence_piece()
    tokenizer.add_special_tokens(["<|end|>", *([beside] if beside else [])])
    found = opened(folder(tmp_path, tokenizer))
    assert found.is_eog(tokenizer.token_to_id("<|end|>") or 0) == (beside is None)


@pytest.mark.parametrize("place", ["jinja", "tokenizer", "list", "json"])
def test_a_chat_template_is_found_in_its_places(tmp_path: Path, place: str) -> None:
    files: dict[str, Any] = {}
    match place:
        case "jinja":
            (tmp_path / "chat_template.jinja").write_text("wanted")
            files["tokenizer_config"] = {"chat_template": "older"}
        case "tokenizer":
            files["tokenizer_config"] = {"chat_template": "wanted"}
            files["chat_template"] = {"chat_template": "older"}
        case "list":
            named = [("tool_use", "other"), ("default", "wanted")]
            entries = [{"name": name, "template": text} for name, text in named]
            files["tokenizer_config"] = {"chat_template": entries}
        case "json":
            files["chat_template"] = {"chat_template": "wanted"}
    settings = read_settings(folder(tmp_path, metaspace(), **files))
    assert settings.chat_template == "wanted"


@pytest.mark.parametrize("length", [10**30, -1])
def test_an_absurd_context_length_is_not_believed(tmp_path: Path, length: int) -> None:
    """Of -1 tokens a model had no context, and a model of vectors refused every input."""
    files = folder(tmp_path, metaspace(), tokenizer_config={"model_max_length": length})
    assert read_settings(files).n_ctx_train == 4096
    assert read_embedding_settings(files).n_ctx_train == 512


@pytest.mark.parametrize(
    "content",
    ["<html>", "[]", '{"eos_token_id": "two"}', '{"max_position_embeddings": 1' + "0" * 30 + "}"],
)
def test_settings_that_make_no_sense_are_an_error_with_their_name(
    tmp_path: Path, content: str
) -> None:
    files = folder(tmp_path, metaspace())
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"config\.json cannot be read"):
        read_settings(files)


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_an_error(tmp_path: Path, content: str) -> None:
    files = folder(tmp_path, metaspace())
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        opened(files)


def test_a_missing_tokenizer_is_reported(tmp_path: Path) -> None:
    files = folder(tmp_path, metaspace())
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        opened(files)


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(ModelError, match="WordPiece"):
        opened(folder(tmp_path, tokenizer))


def test_a_file_that_cuts_and_pads_for_training_does_neither_here(tmp_path: Path) -> None:
    """Many fine-tuned models are published like this. The end of a prompt was lost."""
    made = sentence_piece()
    text = "ab a b " * 20
    wanted = opened(folder(tmp_path, made)).tokenize(text, add_special=True, parse_special=True)
    made.enable_truncation(8)
    made.enable_padding(length=300)
    found = opened(folder(tmp_path, made)).tokenize(text, add_special=True, parse_special=True)
    assert found.tolist() == wanted.tolist()
    assert len(found) > 20


def test_calibration_reads_all_of_a_text_and_begins_each_chunk_as_a_text(tmp_path: Path) -> None:
    made = sentence_piece()
    made.enable_truncation(8)
    folder(tmp_path, made)
    found = tokens_of(tmp_path, "ab a b " * 300)
    made.no_truncation()
    whole = np.array(made.encode("ab a b " * 300).ids)
    begins = np.arange(len(whole)) % N_CHUNK == 0
    assert (found[begins] == 1).all()
    assert (found[~begins] == whole[~begins]).all()
    assert begins.sum() > 2
