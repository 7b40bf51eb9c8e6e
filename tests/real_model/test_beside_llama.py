"""A real instruct model reads and writes as llama.cpp's own Python class lets it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import GenerationRequest, Message
from tests.answers import GREEDY, ask, ids_of

pytestmark = pytest.mark.real_model

PROMPTS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "List three fruits that are red.",
    "Explain in one sentence why the sky is blue.",
    "Translate 'good morning' into Spanish.",
    "What is 17 + 25?",
    "Write a Python function that reverses a string.",
    "Who wrote 'Romeo and Juliet'?",
    "Give me a short recipe for pancakes.",
    "Summarise: The cat sat on the mat, and the dog slept by the door.",
)
N_TOKENS = 24
CONVERSATIONS = (
    (Message(role="user", content="Hello"),),
    (
        Message(role="system", content="You answer in one word."),
        Message(role="user", content="Is water wet?"),
    ),
    (
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello! What can I do?"),
        Message(role="user", content="Tell me a joke.\n\nPlease <|im_end|>"),
    ),
)


@pytest.fixture(scope="module")
def llama(real_model: Path) -> Iterator[llama_cpp.Llama]:
    """With flash attention, as our contexts have it where that is possible."""
    model = llama_cpp.Llama(
        str(real_model), n_ctx=2048, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False
    )
    yield model
    model.close()


def tokens_of(llama: llama_cpp.Llama, text: str) -> list[int]:
    return list(llama.tokenize(text.encode(), add_bos=False, special=True))


def greedy(llama: llama_cpp.Llama, prompt: list[int]) -> list[int]:
    llama.reset()  # type: ignore[no-untyped-call]  # it has no annotations
    answer: list[int] = []
    for token in llama.generate(prompt, temp=0.0):
        if token == llama.token_eos() or len(answer) == N_TOKENS:
            break
        answer.append(token)
    return answer


@pytest.mark.parametrize("text", PROMPTS)
def test_a_greedy_answer_is_the_one_of_llama(
    llama: llama_cpp.Llama, engine: LocalEngine, text: str
) -> None:
    request = ask(text, max_tokens=N_TOKENS)
    ours = ids_of(list(engine.stream(request)))
    assert len(ours) > 1
    assert ours == greedy(llama, tokens_of(llama, engine.apply_template(request).text))


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_its_template_makes_the_prompt_of_llama(
    llama: llama_cpp.Llama, engine: LocalEngine, messages: tuple[Message, ...]
) -> None:
    formatter = Jinja2ChatFormatter(
        template=llama.metadata["tokenizer.chat_template"], eos_token="<|im_end|>", bos_token=""
    )
    theirs = formatter(messages=[{"role": m.role, "content": m.content} for m in messages])  # type: ignore[misc]
    ours = engine.apply_template(GenerationRequest(messages=messages, sampling=GREEDY))
    assert ours.text == theirs.prompt
