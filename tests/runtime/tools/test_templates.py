"""Conversations with tool calls in the templates of families of models, which are written here as
far as calls go: what they check and what they show."""

from __future__ import annotations

import json

import pytest

from spillover.runtime.chat.chat_template import ChatTemplate
from spillover.runtime.request import Message, Tool, ToolCall
from spillover.runtime.text.reasoning import ReasoningSplitter
from spillover.runtime.tools.formats import (
    FUNCTIONARY_TURNS,
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_ARGS,
    MISTRAL_IDS,
)
from spillover.runtime.tools.parser import CallDelta, ToolParser
from spillover.runtime.tools.tool_format import ToolFormat

HERMES_TEMPLATE = (
    "{%- if tools %}<|im_start|>system\n# Tools\n<tools>{% for t in tools %}\n{{ t | tojson }}"
    "{% endfor %}\n</tools>\nWrite <tool_call></tool_call>.<|im_end|>\n{% endif %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'tool' %}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "\n<tool_response>\n{{ m.content }}\n</tool_response>"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{%- else %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{%- for c in m.tool_calls or [] %}{% set c = c.function %}\n<tool_call>\n"
    '{"name": "{{ c.name }}", "arguments": {{ c.arguments | tojson }}}\n</tool_call>'
    "{%- endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_TEMPLATE = (
    "{{- bos_token }}{% for m in messages %}"
    "{%- if m.tool_calls %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('only single tool-calls at once') }}{% endif %}"
    "{%- set c = m.tool_calls[0].function %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    '{"name": "{{ c.name }}", "parameters": {{ c.arguments | tojson }}}<|eot_id|>'
    "{%- elif m.role == 'tool' %}<|start_header_id|>ipython<|end_header_id|>\n\n"
    "{{ m.content | tojson }}<|eot_id|>"
    "{%- else %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>"
    "{%- endif %}{% endfor %}{% if tools %}{{ tools[0].function.name }}{% endif %}"
)


def mistral_template(calls: str) -> str:
    return (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}"
        "{{ raise_exception('ids of nine characters') }}{% endif %}{% endfor %}"
        "{% if m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}"
        "{{ raise_exception('ids of nine characters') }}{% endif %}"
        '[TOOL_RESULTS]{"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}'
        "[/TOOL_RESULTS]"
        "{% elif m.tool_calls %}" + calls + "</s>"
        "{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}"
        "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}"
    )


MISTRAL_TEMPLATE = mistral_template(
    "[TOOL_CALLS][{% for c in m.tool_calls %}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, '
    '"id": "{{ c.id }}"}{% if not loop.last %}, {% endif %}{% endfor %}]'
)
MISTRAL_ARGS_TEMPLATE = mistral_template(
    "{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]"
    "{{ c.function.arguments | tojson }}{% endfor %}"
)
MISTRAL_IDS_TEMPLATE = mistral_template(
    "{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[CALL_ID]{{ c.id }}[ARGS]"
    "{{ c.function.arguments | tojson }}{% endfor %}"
)
FUNCTIONARY_TEMPLATE = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.role == 'assistant' and m.content %}>>>all\n{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}"
    "{{ '>>>' + c.function.name + '\n' + c.function.arguments }}{% endfor %}<|eot_id|>"
    "{% endfor %}{% if tools %}{{ tools[0].function.name }}{% endif %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n>>>{% endif %}"
)
ALTERNATING = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
)
"""A family that knows neither a system nor tools."""

TOOLS = (Tool(name="weather"), Tool(name="add"))
HARD = {"city": 'Brno "}{</tool_call>', "äö": ["\u2028", {"a": [None, 1.5]}]}
HISTORY = (
    Message(role="system", content="Be kind."),
    Message(role="user", content="How is the weather?"),
    Message(
        role="assistant",
        content="",
        tool_calls=(
            ToolCall(id="call_of_another_writer_1", name="weather", arguments=json.dumps(HARD)),
            ToolCall(id="call_2", name="add", arguments='{"a": 1}'),
        ),
    ),
    Message(role="tool", content="sunny", tool_call_id="call_of_another_writer_1"),
    Message(role="tool", content="three", tool_call_id="call_2"),
    Message(role="assistant", content="It is sunny."),
    Message(role="user", content="Thank you."),
)
FAMILIES: dict[str, tuple[str, ToolFormat]] = {
    "hermes": (HERMES_TEMPLATE, HERMES),
    "llama": (LLAMA_TEMPLATE, LLAMA),
    "mistral": (MISTRAL_TEMPLATE, MISTRAL),
    "mistral-args": (MISTRAL_ARGS_TEMPLATE, MISTRAL_ARGS),
    "mistral-ids": (MISTRAL_IDS_TEMPLATE, MISTRAL_IDS),
    "functionary-turns": (FUNCTIONARY_TEMPLATE, FUNCTIONARY_TURNS),
}


def template(source: str | None) -> ChatTemplate:
    return ChatTemplate(source, bos_text="<s>", eos_text="</s>", name="m")


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_of_another_writer_and_their_results_are_rendered(family: str) -> None:
    source, format = FAMILIES[family]
    rendered = template(source).render(HISTORY, tools=TOOLS)
    assert template(source).tool_format == format
    for text in ("Be kind.", "weather", "sunny", "three", "It is sunny.", "Thank you."):
        assert text in rendered
    assert rendered.index("sunny") < rendered.index("three") < rendered.index("It is sunny.")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_is_parsed_as_the_template_writes_it(family: str) -> None:
    source, format = FAMILIES[family]
    message = HISTORY[2]
    if format.may_be_bare:
        (call, _) = message.tool_calls
        message = Message(role="assistant", content="", tool_calls=(call,))
    prompt = template(source).render((HISTORY[1],), tools=())
    rendered = template(source).render((HISTORY[1], message), tools=())
    written = rendered.removeprefix(prompt)
    for tag in ("<|im_start|>assistant\n", "<|start_header_id|>assistant<|end_header_id|>\n\n"):
        written = written.replace(tag, "")
    for end in ("<|im_end|>\n", "<|eot_id|>", "</s>"):
        written = written.removesuffix(end)
    for streams in (False, True):
        parser = ToolParser(format, {"weather": {}, "add": {}}, streams=streams)
        calls: dict[int, tuple[str, str]] = {}
        text = ""
        for piece in [p for c in written for p in parser.feed(c)] + parser.flush():
            if isinstance(piece, CallDelta):
                name, arguments = calls.get(piece.index, ("", ""))
                calls[piece.index] = (piece.name or name, arguments + piece.arguments)
            else:
                text += piece
        assert text == ""
        wanted = [(call.name, json.loads(call.arguments)) for call in message.tool_calls]
        assert [(name, json.loads(given)) for name, given in calls.values()] == wanted


def test_what_opens_a_text_or_a_call_is_left_to_the_model() -> None:
    rendered = template(FUNCTIONARY_TEMPLATE).render(HISTORY, tools=TOOLS)
    assert rendered.endswith("assistant<|end_header_id|>\n\n")
    assert ReasoningSplitter().feed(">>>all\nHi") == [(False, "Hi")]


def test_the_ids_that_a_template_shows_are_those_of_the_results() -> None:
    rendered = template(MISTRAL_TEMPLATE).render(HISTORY, tools=TOOLS)
    ids = [part[:9] for part in rendered.split('"id": "')[1:]]
    assert len(set(ids)) == 2
    assert [part[:9] for part in rendered.split('"call_id": "')[1:]] == ids
    own = ToolCall(id="a1B2c3D4e", name="add", arguments="{}")
    message = Message(role="assistant", content="", tool_calls=(own,))
    assert "a1B2c3D4e" in template(MISTRAL_TEMPLATE).render((HISTORY[1], message))


def test_a_template_without_system_and_tools_gets_them_in_the_user_turn() -> None:
    rendered = template(ALTERNATING).render(HISTORY, tools=TOOLS)
    first = rendered.partition("<end_of_turn>")[0]
    assert "Be kind." in first
    assert '"name": "weather"' in first
    assert "sunny\n</tool_response>\n<tool_response>\nthree" in rendered


@pytest.mark.parametrize("word", ["<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "developer"])
def test_a_word_in_a_template_makes_no_format(word: str) -> None:
    shown = template("{# " + word + " tools tool_calls #}" + ALTERNATING)
    assert shown.tool_format == HERMES
    assert '"name": "weather"' in shown.render(HISTORY[1:2], tools=TOOLS)
