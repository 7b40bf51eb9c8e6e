"""What a model file says of its text, and what of it holds for prompts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spillover.models.catalogue import default_model
from spillover.runtime.errors import InvalidRequest, ModelError
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import Message
from spillover.runtime.worker.loading import LoadedModel
from tests.gguf_edit import with_values
from tests.loading import load

BUNDLED = Path(default_model().path)
OPTIONS = {"n_ctx": 64, "n_parallel": 1, "n_prefix_cached": 0, "n_threads": 1}
HELLO = (Message(role="user", content="hello"),)


def loaded(path: Path, **options: object) -> LoadedModel:
    return load(path, "model", EngineOptions(**OPTIONS, **options))  # type: ignore[arg-type]


def test_no_token_that_ends_a_text_goes_behind_a_prompt(tmp_path: Path) -> None:
    """An answer to a prompt that has ended begins another text."""
    adds = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    model = loaded(with_values(BUNDLED, tmp_path / "model.gguf", adds)).backend
    plain = model.tokenize("One day", add_special=False, parse_special=True).tolist()
    special = model.tokenize("One day", add_special=True, parse_special=True).tolist()
    assert special[-len(plain) :] == plain
    assert len(special) == len(plain) + 1
    written = model.tokenize("a<|im_end|>", add_special=True, parse_special=True).tolist()
    assert model.is_eog(written[-1])
    model.close()


def test_a_name_in_another_encoding_is_an_error_that_says_so(tmp_path: Path) -> None:
    """No message to another process can carry it: there was a traceback."""
    path = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.gguf"))
    path.write_bytes(BUNDLED.read_bytes())
    with pytest.raises(InvalidRequest, match="is not UTF-8 text: rename it"):
        LocalEngine(path, EngineOptions())


def test_a_template_that_does_not_parse_can_be_replaced(tmp_path: Path) -> None:
    broken = {"tokenizer.chat_template": "{% for message in messages"}
    path = with_values(BUNDLED, tmp_path / "model.gguf", broken)
    with pytest.raises(ModelError, match="--chat-template-file"):
        loaded(path)
    model = loaded(path, chat_template="chatml")
    assert "<|im_start|>user\nhello" in model.template.render(HELLO)
    assert model.card.has_chat_template
    assert not model.card.warnings
    model.backend.close()


def test_the_owners_template_goes_before_the_models(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }}, said \N{LATIN SMALL LETTER E WITH ACUTE}")
    for options in ({"chat_template": file.read_text()}, {"chat_template_file": file}):
        model = loaded(BUNDLED, **options)
        assert model.template.render(HELLO) == "hello, said \N{LATIN SMALL LETTER E WITH ACUTE}"
        model.backend.close()


@pytest.mark.parametrize("content", ["", "version https://git-lfs.github.com/spec/v1", None])
def test_a_template_file_without_a_template_is_an_error(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "mine.jinja"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ModelError, match=r"chat_template_file: .*mine\.jinja"):
        loaded(BUNDLED, chat_template_file=file)


@pytest.mark.parametrize("given", ["llama3", "./mine.jinja"])
def test_a_name_or_path_is_not_taken_for_a_template(given: str) -> None:
    """It would be the prompt of every conversation."""
    with pytest.raises(ModelError, match="is not a Jinja template"):
        loaded(BUNDLED, chat_template=given)


def test_two_templates_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="exclude each other"):
        loaded(BUNDLED, chat_template="chatml", chat_template_file=tmp_path / "mine.jinja")
