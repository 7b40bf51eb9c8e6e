"""What a chat template may use: so much memory and computing, and none of the decoder's time."""

from __future__ import annotations

import gc
import os
import resource
import time
from typing import Any

import pytest

from spillover.runtime import limited_process
from spillover.runtime.chat import renderer
from spillover.runtime.chat.chat_template import CHATML, ChatTemplate
from spillover.runtime.chat.render_process import MAX_MEMORY_BYTES
from spillover.runtime.chat.template_cost import cost_of
from spillover.runtime.errors import EngineBusy, InvalidRequest, ModelError
from spillover.runtime.request import Message

USER = Message(role="user", content="Hi")
DOUBLING = "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set ns.x = "
QUADRATIC = (
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% for o in messages[:loop.index0] %}"
    "{% endfor %}"
    "{{ m.role }}: {{ m.content }}\n{% endfor %}"
)
ENDLESS = "{% for i in range(10000) %}" * 3 + "{% endfor %}" * 3


def template(source: str | None, render_s: float = 2.0) -> ChatTemplate:
    return ChatTemplate(source, bos_text="", eos_text="", name="m", render_s=render_s)


@pytest.mark.parametrize(
    "expression",
    [
        "'a'.encode().ljust(6000000000)",
        "(65).to_bytes(6000000000, 'big')",
        "('a' * 1000000).replace('a', 'b' * 1000000)",
        "('b' * 1000000).join('a' * 1000000)",
        "('a' * 1000000).translate({97: 'b' * 1000000})",
        "['a'] | batch(6000000000, 'b') | list",
        "'a' | indent(6000000000)",
        "('a' * 1000000) | replace('a', 'b' * 1000000)",
        "('ab' * 500000) | list | tojson(indent=16) | list | tojson(indent=16) | list | tojson",
    ],
)
def test_no_operation_takes_more_memory_than_the_limit(expression: str) -> None:
    """One call in C could take all memory, and no deadline interrupts it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    with pytest.raises(InvalidRequest, match="chat template of m"):
        template("{{ (" + expression + ") | length }}").render((USER,))
    # The largest child so far, those of other tests included.
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert largest <= max(before, MAX_MEMORY_BYTES) + 2**26


@pytest.mark.parametrize("doubled", ["ns.x + ns.x", "ns.x ~ ns.x", "[ns.x, ns.x] | join"])
def test_no_text_doubles_without_end(doubled: str) -> None:
    source = DOUBLING + doubled + " %}{% endfor %}{{ ns.x | length }}"
    with pytest.raises(InvalidRequest, match="chat template of m was stopped"):
        template(source).render((USER,))


def test_a_template_that_takes_all_memory_when_it_is_read_is_refused() -> None:
    with pytest.raises(ModelError, match="chat template of m"):
        template("{{ ('a' * 1000000) | replace('a', 'b' * 1000000) | length }}" + "{{ 1 | x }}")


def test_a_long_template_that_does_not_parse_is_refused() -> None:
    with pytest.raises(ModelError, match="chat template of m does not parse"):
        template("{% for %}" * 1000)


def test_computing_is_limited_and_the_next_conversation_is_rendered() -> None:
    source = "{% if messages | length > 8 %}" + ENDLESS + "{% endif %}{{ messages[0].content }}"
    slow = template(source, render_s=0.1)
    assert not slow.is_slow
    with pytest.raises(InvalidRequest, match="stopped after"):
        slow.render((USER,) * 9)
    assert slow.is_slow
    assert slow.render((USER,)) == "Hi"
    assert "requests will be slow" in template(ENDLESS, render_s=0.1).warnings[0]


def test_as_many_messages_as_a_request_may_have_are_rendered() -> None:
    """A deadline of two seconds failed at 1,001 with templates that look back at each message; and
    what they computed, other streams waited for."""
    messages = tuple(Message(role="user", content=f"message {i}") for i in range(4096))
    looking_back = template(QUADRATIC)
    before = time.process_time()
    prompt = looking_back.render(messages)
    spent_here = time.process_time() - before
    assert prompt.count("\n") == 4096
    assert spent_here < 2.0  # a busy machine computes more slowly


def test_a_long_refusal_is_cut() -> None:
    with pytest.raises(InvalidRequest, match="refuses this conversation: aaa") as raised:
        template("{{ raise_exception('a' * 1000000) }}").render((USER,))
    assert len(str(raised.value)) < 1000
    with pytest.raises(InvalidRequest) as raised:
        template("{{ {}['a' * 1000000].x }}").render((USER,))
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("wrap", ["{}", "{{% set _ = namespace(x=1) %}}{}"])
def test_half_a_surrogate_pair_is_no_text(wrap: str) -> None:
    """No message to another process can carry it: the worker used to end."""
    half = "{{ '\\ud800' }}{{ messages[0].content }}"
    assert template(wrap.format(half)).render((USER,)) == "\ufffdHi"
    with pytest.raises(InvalidRequest) as raised:
        template(wrap.format("{{ raise_exception('\\ud800') }}")).render((USER,))
    str(raised.value).encode()
    with pytest.raises(InvalidRequest) as raised:
        template(wrap.format("{{ messages['\\ud800'].x }}")).render((USER,))
    str(raised.value).encode()


def test_a_process_ends_with_its_template() -> None:
    rendered = template("{{ messages | tojson }}")
    rendered.render((USER,))
    (process,) = rendered._renderer._idle
    pid = process._process.pid
    del rendered, process
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_that_the_system_ended_is_replaced() -> None:
    rendered = template("{{ messages | tojson }}")
    (process,) = rendered._renderer._idle
    process._process.kill()
    process._process.wait()
    assert "Hi" in rendered.render((USER,))


def test_a_system_without_processes_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise BlockingIOError("no more processes")

    rendered = template("{{ messages | tojson }}")
    rendered._renderer._idle.pop().end()
    monkeypatch.setattr(limited_process, "Popen", refuse)
    with pytest.raises(EngineBusy, match="no more processes"):
        rendered.render((USER,))
    with pytest.raises(ModelError, match="no more processes"):
        template("{{ messages | tojson }}")


def test_a_plain_template_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(limited_process, "Popen", refuse)
    assert "Hi" in template(None).render((USER,))


@pytest.mark.parametrize(
    "source",
    [
        CHATML,
        "{% set all = messages[1:] %}{% for m in all %}{{ m.content | trim }}{% endfor %}",
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('alternate') }}{% endif %}{{ m['content'].strip() }}{% endfor %}",
    ],
)
def test_the_cost_of_a_plain_template_is_known(source: str) -> None:
    cost = cost_of(source)
    assert cost is not None
    few, many = ([{"role": "user", "content": "a" * 1000}] * n for n in (1, 1000))
    assert cost.of({"messages": few}) < renderer.MAX_COST < cost.of({"messages": many})
    nested = {"tools": [{"function": {"name": "a" * 1000}}]}
    assert cost.of({"messages": few, **nested}) > cost.of({"messages": few}) + 1000


@pytest.mark.parametrize(
    "source",
    [
        "{% set x = 'a' + 'a' %}{% set x = x + x %}{{ x }}",
        "{% set x = x ~ x %}",
        "{% set ns = namespace(x=1) %}",
        "{% for m in messages %}{% for o in messages %}{% endfor %}{% endfor %}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{% for c in messages[0].content %}{{ messages }}{% endfor %}",
        "{% for messages in messages %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}",
        "{{ 'a'.encode() }}",
        "{{ 'a'.replace('a', 'aa') }}",
        "{{ 'a' * 9 }}",
        "{{ messages | tojson }}",
        "{{ [1] }}",
        "{% set x %}{{ messages }}{% endset %}",
        "{% set (a, b) = messages %}",
        "{{ range(9) }}",
        "{% for %}" * 1000,
    ],
)
def test_the_cost_of_others_is_not(source: str) -> None:
    assert cost_of(source) is None
