"""Chat templates: known shapes, refusals, and templates that mean harm."""

from __future__ import annotations

import threading

import pytest

from spillover.runtime.chat.chat_template import ChatTemplate
from spillover.runtime.errors import InvalidRequest, ModelError, SpilloverError
from spillover.runtime.request import Message

USER = Message(role="user", content="Hi")
ASSISTANT = Message(role="assistant", content=" Once upon a")


def template(source: str | None, render_s: float = 2.0) -> ChatTemplate:
    return ChatTemplate(source, bos_text="<s>", eos_text="</s>", name="m", render_s=render_s)


def test_chatml_stands_in_with_a_warning() -> None:
    chatml = template(None)
    assert chatml.warnings
    rendered = chatml.render((USER,))
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_llama_3_style() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}"
        "<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    )
    assert template(source).render((USER,)).startswith("<s><|start_header_id|>user")


def test_thinking_can_be_switched_by_the_request() -> None:
    source = "{{ messages[0].content }}{% if enable_thinking is false %}<think></think>{% endif %}"
    assert template(source).render((USER,)) == "Hi"
    off = template(source).render((USER,), template_kwargs={"enable_thinking": False})
    assert off == "Hi<think></think>"


def test_templates_are_given_what_llama_cpp_gives_them() -> None:
    """Thinking was undefined, which switches it off in some real templates."""
    source = "{{ messages[0].content }}{% if enable_thinking %}<think>{% endif %}{{ date_string }}"
    text = template(source).render((USER,), template_kwargs={"date_string": "today"})
    assert text.endswith("<think>today")
    assert "20" in template(source).render((USER,))


def test_a_template_may_refuse_a_conversation() -> None:
    source = (
        "{% for m in messages %}{% if 'Hi' in m['content'] %}"
        "{{ raise_exception('no greetings') }}{% endif %}{{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(InvalidRequest, match="no greetings"):
        template(source).render((USER,))


def test_the_last_message_can_be_continued() -> None:
    prompt = template(None).render((USER, ASSISTANT), continue_final_message=True)
    assert prompt.endswith("<|im_start|>assistant\n Once upon a")


def test_a_request_may_not_replace_the_conversation() -> None:
    with pytest.raises(InvalidRequest, match="messages"):
        template(None).render((USER,), template_kwargs={"messages": []})


def test_a_template_that_does_not_parse_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="does not parse"):
        template("{% for %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ 'a' * 10**9 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ '%99999999d' % 1 }}",
        "{{ '{:99999999}'.format(1) }}",
        "{{ 'x'.center(10**9) }}",
        "{{ 'x' | center(10**9) }}",
        "{% for i in range(10**12) %}{% endfor %}",
        "{{ messages.append(1) }}",
        "{{ undefined_name.attribute }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_harmful_template_is_a_clear_error(source: str) -> None:
    with pytest.raises(SpilloverError, match="chat template of m"):
        template(source).render((USER,))


def test_a_template_that_never_ends_is_stopped_and_leaves_nothing_behind() -> None:
    loop = "{% for i in range(10000) %}" * 3 + "{% endfor %}" * 3
    n_threads = threading.active_count()
    with pytest.raises(InvalidRequest, match="stopped after"):
        template(loop, render_s=0.1).render((USER,))
    assert threading.active_count() <= n_threads + 1
    assert template(None).render((USER,))
