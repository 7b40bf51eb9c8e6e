"""A prompt shows every message in some form that the template accepts, or there is no prompt."""

from __future__ import annotations

import json
import re

import pytest

from spillover.runtime.chat.chat_template import ChatTemplate
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import Message, Tool, ToolCall
from spillover.runtime.tools.formats import HERMES

TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
RAISES_LATE = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
    f"{TURN}{{% endfor %}}{OPEN}"
)
DROPS_LATE = (
    "{% for m in messages %}{% if m.role != 'system' or loop.first %}"
    f"{TURN}{{% endif %}}{{% endfor %}}{OPEN}"
)
MENTIONS_DEVELOPER = (
    "{# developer #}{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}"
    f"{TURN}{{% endif %}}{{% endfor %}}{OPEN}"
)
KNOWS_DEVELOPER = (
    "{% for m in messages %}{% if m.role == 'developer' %}[DEV]{{ m.content }}[/DEV]"
    f"{{% else %}}{TURN}{{% endif %}}{{% endfor %}}{OPEN}"
)
DROPS_SYSTEM = f"{{% for m in messages if m.role != 'system' %}}{TURN}{{% endfor %}}{OPEN}"
SHOWS_ONLY_USERS = f"{{% for m in messages if m.role == 'user' %}}{TURN}{{% endfor %}}{OPEN}"
HERMES_CALL = (
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}\n</tool_call>"
)
UNKNOWN_CALL = (
    "<tool_call>\n<run={{ c.function.name }}>{% for k, v in c.function.arguments | items %}"
    "<with={{ k }}>{{ v }}</with>{% endfor %}</run>\n</tool_call>"
)


def with_calls(call: str, *, calls: str = "m.tool_calls or []", content: str = "m.content") -> str:
    return (
        "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ " + content + " }}"
        "{% for c in " + calls + " %}" + call + "{% endfor %}<|im_end|>\n{% endfor %}" + OPEN
    )


FIRST_CALL_ONLY = with_calls(HERMES_CALL, calls="(m.tool_calls or [])[:1]")
NO_TEXT_BESIDE_CALLS = with_calls(HERMES_CALL, content="'' if m.tool_calls else m.content")
TEXT_ARGUMENTS = with_calls(
    '<tool_call>{"name": "{{ c.function.name }}", "arguments": '
    "{{ '' + c.function.arguments }}}</tool_call>"
)
ONE_TYPE_EACH = (
    "{% macro kind(t) %}{% if t is string %}{{ t }}{% else %}{{ kind(t) }}{% endif %}{% endmacro %}"
    "{% for t in tools or [] %}{% for k, v in t.function.parameters.properties | items %}"
    "{{ k }}:{{ kind(v.type) }}{% endfor %}{% endfor %}"
) + with_calls(HERMES_CALL)

WEATHER = Tool(
    name="weather",
    description="The weather of a city.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}},
)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_text="<s>", eos_text="</s>", name="m")


def said(role: str, content: str, *calls: ToolCall, **fields: str) -> Message:
    return Message(role=role, content=content, tool_calls=calls, **fields)  # type: ignore[arg-type]


def call(call_id: str, arguments: str) -> ToolCall:
    return ToolCall(id=call_id, name="weather", arguments=arguments)


SYSTEMS = (
    said("system", "Be brief."),
    said("user", "Good morning"),
    said("assistant", "Welcome"),
    said("system", "Answer in French."),
    said("user", "Again"),
)


@pytest.mark.parametrize("source", [RAISES_LATE, DROPS_LATE, DROPS_SYSTEM])
@pytest.mark.parametrize("messages", [SYSTEMS, (SYSTEMS[0], SYSTEMS[3], SYSTEMS[1])])
def test_every_system_message_is_shown(source: str, messages: tuple[Message, ...]) -> None:
    """A late one used to be a 400 with some templates, and to vanish with others."""
    prompt = template(source).render(messages)
    for message in messages:
        assert message.content in prompt


def test_a_template_shows_a_developer_turn_as_a_role_it_knows() -> None:
    """The mere word in a template used to make the message vanish."""
    messages = (said("developer", "Be brief."), said("user", "Good morning"))
    assert "<|im_start|>system\nBe brief." in template(MENTIONS_DEVELOPER).render(messages)
    assert "[DEV]Be brief.[/DEV]" in template(KNOWS_DEVELOPER).render(messages)


def test_a_short_text_that_stands_elsewhere_in_the_prompt_is_missed() -> None:
    messages = (said("system", "user"), said("user", "Good morning"))
    assert template(DROPS_SYSTEM).render(messages).count("user") == 2


def test_a_message_that_the_template_leaves_out_is_refused_by_its_place() -> None:
    messages = (said("user", "Good morning"), said("assistant", "Welcome"), said("user", "Again"))
    with pytest.raises(InvalidRequest, match=r"leaves out messages\[1\].*role assistant") as raised:
        template(SHOWS_ONLY_USERS).render(messages)
    assert raised.value.param == "messages[1]"


LAST_SYSTEM = (
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.system = m.content %}{% endif %}{% endfor %}{{ ns.system }}"
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endif %}"
    "{% endfor %}"
)
TAKES_TURNS = (
    "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{{ messages[0].content }}"
    "{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) or m.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.role }}: {{ m.content }}\n"
    "{% endfor %}"
)


def test_tools_that_are_explained_in_words_are_shown_beside_a_late_system_message() -> None:
    """A template that shows only the last system message used to leave them out."""
    messages = (said("user", "Good morning"), said("system", "Answer in French."))
    prompt = template(LAST_SYSTEM).prompt(messages, tools=(WEATHER,)).text
    for text in ("Good morning", "Answer in French.", "The weather of a city."):
        assert text in prompt


@pytest.mark.parametrize(
    "roles",
    [
        ("user", "user", "user"),
        ("system", "assistant", "user"),
        ("user", "assistant", "assistant", "user", "system"),
        ("assistant",),
        ("developer", "user", "system", "user", "tool", "assistant", "tool"),
    ],
)
def test_turns_of_whatever_order_are_shown_by_a_template_that_wants_them_in_turn(
    roles: tuple[str, ...],
) -> None:
    """Two messages of the user in a row used to be a 400 with Mistral's and Gemma's templates."""
    messages = tuple(said(role, f"Text number {i}") for i, role in enumerate(roles))
    prompt = template(TAKES_TURNS).render(messages)
    assert re.findall("Text number .", prompt) == [message.content for message in messages]


def test_an_answer_that_follows_another_is_continued() -> None:
    messages = (said("user", "Hi"), said("assistant", "One."), said("assistant", "Tw"))
    prompt = template(TAKES_TURNS).render(messages, continue_final_message=True)
    assert prompt == "user: Hi\nassistant: One.\n\nTw"


def test_a_template_that_renders_nothing_is_named() -> None:
    with pytest.raises(InvalidRequest, match="chat template of m renders nothing"):
        template("{% if false %}{{ messages }}{% endif %}").render((said("user", "Hi"),))


CALLED = (
    said("user", "What is the weather?"),
    said(
        "assistant", "Let me see.", call("c1", '{"city": "Brno"}'), call("c2", '{"city": "Cres"}')
    ),
    said("tool", "sunny", tool_call_id="c1"),
    said("tool", "windy", tool_call_id="c2"),
    said("user", "Thank you."),
)


@pytest.mark.parametrize(
    "source",
    [
        FIRST_CALL_ONLY,
        NO_TEXT_BESIDE_CALLS,
        TEXT_ARGUMENTS,
        with_calls(UNKNOWN_CALL),
        ONE_TYPE_EACH,
    ],
)
def test_every_call_and_the_text_beside_it_is_shown(source: str) -> None:
    prompt = template(source).render(CALLED, tools=(WEATHER,))
    for text in ("Let me see.", "Brno", "Cres", "sunny", "windy", "The weather of a city."):
        assert text in prompt


def test_white_space_beside_a_call_is_no_text() -> None:
    messages = (CALLED[0], said("assistant", " ", call("c1", '{"city": "Brno"}')), *CALLED[2:3])
    prompt = template(FIRST_CALL_ONLY).render(messages, tools=(WEATHER,))
    assert prompt.count("Brno") == 1


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"path": "example.txt', "example.txt"),
        ('"Beijing"', "Beijing"),
        ('["Beijing"]', "Beijing"),
        ("null", "weather"),
        ("", "weather"),
    ],
)
@pytest.mark.parametrize(
    "source", [with_calls(HERMES_CALL), with_calls(UNKNOWN_CALL), TEXT_ARGUMENTS]
)
def test_arguments_that_are_no_object_are_no_reason_to_refuse(
    source: str, arguments: str, shown: str
) -> None:
    """A call that max_tokens had cut used to end its conversation for good."""
    messages = (CALLED[0], said("assistant", "", call("c1", arguments)), *CALLED[2:3], CALLED[4])
    prompt = template(source).prompt(messages, tools=(WEATHER,))
    assert shown in prompt.text


def test_a_tool_that_the_template_cannot_write_is_explained_in_words() -> None:
    """It used to end every request with that tool."""
    parameters = {"properties": {"city": {"type": ["string", "null"]}}}
    tool = Tool(name="weather", description="Of a city.", parameters=parameters)
    prompt = template(ONE_TYPE_EACH).prompt(CALLED[:1], tools=(tool,))
    assert "You can call these functions" in prompt.text
    assert "Of a city." in prompt.text
    assert prompt.tool_format == HERMES
    assert "city:string" in template(ONE_TYPE_EACH).render(CALLED[:1], tools=(WEATHER,))


def test_tools_may_be_shown_through_a_filter() -> None:
    source = "{{ tools | map(attribute='function') | tojson }}" + with_calls(HERMES_CALL)
    shown = template(source).render(CALLED[:1], tools=(WEATHER,))
    assert json.loads(shown.partition("<tools>")[0])[0]["name"] == "weather"


def test_a_model_with_another_call_format_gets_tools_in_plain_text_and_a_warning() -> None:
    """XML between <tool_call> tags used to be taken for Hermes."""
    other = template(with_calls(UNKNOWN_CALL))
    prompt = other.prompt(CALLED, tools=(WEATHER,))
    assert "You can call these functions" in prompt.text
    assert "<run=" not in prompt.text
    assert any("tool calls" in warning for warning in other.warnings)
    assert not template(with_calls(HERMES_CALL)).warnings


@pytest.mark.parametrize("content", ["e", "<", "", "assistant", " two words ", "<|im_end|>"])
def test_an_answer_is_continued_where_it_ended(content: str) -> None:
    """Its text was searched in the prompt: "e" was found in <|im_end|>."""
    messages = (said("user", "Hi"), said("assistant", content))
    prompt = template(with_calls(HERMES_CALL)).render(messages, continue_final_message=True)
    assert prompt == f"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{content}"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_a_template_sees_the_reasoning_where_it_looks_for_it(field: str) -> None:
    source = (
        "{% for m in messages %}{% if m." + field + " %}<think>{{ m." + field + " }}</think>"
        "{% endif %}{{ m.content }};{% endfor %}"
    )
    messages = (said("user", "Hi"), said("assistant", "yes", reasoning="a plan"), said("user", "b"))
    assert template(source).render(messages) == "Hi;<think>a plan</think>yes;b;"
    assert "a plan" not in template(DROPS_SYSTEM).render(messages)
