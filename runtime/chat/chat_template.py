"""Renders a conversation as a prompt, with the model's own Jinja template."""

from __future__ import annotations

from typing import Any

import jinja2
from jinja2.exceptions import SecurityError

from spillover.runtime.chat.sandbox import TemplateRefusal, compile_template
from spillover.runtime.deadline import DeadlinePassed, within
from spillover.runtime.errors import InvalidRequest, ModelError
from spillover.runtime.request import Message, Tool
from spillover.runtime.text.template_tags import REASONING_TAGS
from spillover.runtime.tools.formats import format_of, knows_tools
from spillover.runtime.tools.prompts import (
    as_text,
    call_object,
    one_call_each,
    tool_object,
    with_short_ids,
    without_system,
)

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""OpenAI's ChatML, for models without a template."""

MAX_TEMPLATE_CHARS = 1 << 18
MAX_GROWTH_CHARS = 1 << 20
"""A prompt may be this much longer than its messages."""

RENDER_TIMEOUT_S = 2.0

SHORT_ID_CHARS = 16
"""Models whose own call ids are shorter accept no longer ones."""

_RESERVED = frozenset({"messages", "tools", "bos_token", "eos_token", "add_generation_prompt"})


class ChatTemplate:
    """Renders conversations. *source* None means ChatML, with a warning.

    Raises ModelError if the template does not parse.
    """

    def __init__(
        self,
        source: str | None,
        *,
        bos_text: str,
        eos_text: str,
        name: str,
        timeout_s: float = RENDER_TIMEOUT_S,
    ) -> None:
        self._name = name
        self._timeout_s = timeout_s
        # Most templates know no developer, which is OpenAI's later name for the system.
        self._knows_developer = source is not None and "developer" in source
        self._knows_tools = knows_tools(source)
        self.tool_format = format_of(source)
        """How the model writes tool calls."""
        self._fixed = {"bos_token": bos_text, "eos_token": eos_text}
        self.tag_pairs = tuple(pair for pair in REASONING_TAGS if pair.close in (source or ""))
        """How the model marks its reasoning, as far as the template shows it."""
        self.is_substitute = source is None
        """ChatML stands in for a template that nobody gave."""
        self.warnings: tuple[str, ...] = ()
        if source is None:
            self.warnings = (
                f"{name} has no chat template: using ChatML, which may not fit; "
                "set chat_template_file",
            )
        elif len(source) > MAX_TEMPLATE_CHARS:
            raise ModelError(
                f"the chat template of {name} is longer than {MAX_TEMPLATE_CHARS} characters"
            )
        try:
            self._template = compile_template(CHATML if source is None else source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelError(
                f"the chat template of {name} does not parse: {error}. Give another one: "
                "--chat-template-file FILE, or --chat-template chatml"
            ) from error

    def render(
        self,
        messages: tuple[Message, ...],
        *,
        continue_final_message: bool = False,
        template_kwargs: dict[str, Any] | None = None,
        tools: tuple[Tool, ...] = (),
    ) -> str:
        """The prompt. With *continue_final_message* it ends inside the last message. If the
        template knows no tools, the system's message lists them.

        Raises InvalidRequest if the template refuses the conversation or fails.
        """
        extra = template_kwargs or {}
        if taken := _RESERVED & extra.keys():
            raise InvalidRequest(
                f"chat_template_kwargs cannot set {', '.join(sorted(taken))}",
                "chat_template_kwargs",
            )
        if not self._knows_tools:
            messages, tools = as_text(messages, tools), ()
        elif self.tool_format.id_chars < SHORT_ID_CHARS:
            messages = with_short_ids(messages, self.tool_format.id_chars)
        prompt = self._render_any(messages, tools, extra, opens_turn=not continue_final_message)
        n_content = sum(len(message.content) for message in messages)
        if len(prompt) > 2 * n_content + MAX_GROWTH_CHARS:
            raise InvalidRequest(
                f"the chat template of {self._name} makes the prompt too long", "messages"
            )
        return _cut_after(prompt, messages[-1].content) if continue_final_message else prompt

    def _render_any(
        self,
        messages: tuple[Message, ...],
        tools: tuple[Tool, ...],
        extra: dict[str, Any],
        *,
        opens_turn: bool,
    ) -> str:
        """A template that refuses a conversation may accept another one of the same meaning."""
        refusal: InvalidRequest | None = None
        for variant in dict.fromkeys(
            (
                messages,
                one_call_each(messages),
                without_system(messages),
                without_system(one_call_each(messages)),
            )
        ):
            try:
                return self._render(variant, tools, extra, opens_turn=opens_turn)
            except InvalidRequest as error:
                refusal = refusal or error
                if not isinstance(error.__cause__, TemplateRefusal):
                    break
        assert refusal is not None
        raise refusal

    def _render(
        self,
        messages: tuple[Message, ...],
        tools: tuple[Tool, ...],
        extra: dict[str, Any],
        *,
        opens_turn: bool,
    ) -> str:
        values = {
            **extra,
            **self._fixed,
            "messages": [self._as_dict(message) for message in messages],
            "add_generation_prompt": opens_turn,
        }
        if tools:
            values["tools"] = [tool_object(tool) for tool in tools]
        try:
            return within(self._timeout_s, lambda: self._template.render(values))
        except TemplateRefusal as error:
            raise InvalidRequest(
                f"the chat template of {self._name} refuses this conversation: {error}", "messages"
            ) from error
        except DeadlinePassed as error:
            raise InvalidRequest(
                f"the chat template of {self._name} was {error}", "messages"
            ) from error
        except (
            jinja2.TemplateError,
            SecurityError,
            ArithmeticError,
            AttributeError,
            LookupError,
            MemoryError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise InvalidRequest(
                f"the chat template of {self._name} fails on this conversation: "
                f"{type(error).__name__}: {error}",
                "messages",
            ) from error

    def _as_dict(self, message: Message) -> dict[str, Any]:
        is_system = message.role == "developer" and not self._knows_developer
        fields: dict[str, Any] = {
            "role": "system" if is_system else message.role,
            "content": message.content,
        }
        if message.name is not None:
            fields["name"] = message.name
        if message.tool_calls:
            fields["tool_calls"] = [call_object(call) for call in message.tool_calls]
        if message.tool_call_id is not None:
            fields["tool_call_id"] = message.tool_call_id
        return fields


def _cut_after(prompt: str, content: str) -> str:
    """*prompt* up to the end of its last message's *content*, which templates may strip."""
    for wanted in (content, content.strip()):
        at = prompt.rfind(wanted)
        if wanted and at >= 0:
            return prompt[: at + len(wanted)]
    raise InvalidRequest(
        "the model's chat template changes the last message, so it cannot be continued: leave "
        "continue_final_message out",
        "continue_final_message",
    )
