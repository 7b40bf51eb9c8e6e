"""What a model file says of its text, and what of it holds for prompts."""

from __future__ import annotations

from pathlib import Path

from spillover.models.catalogue import default_model
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import Message
from spillover.runtime.worker.loading import LoadedModel, load
from tests.gguf_edit import with_values

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
