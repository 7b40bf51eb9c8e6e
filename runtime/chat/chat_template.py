"""Renders a conversation as a prompt, with the model's own Jinja template."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import jinja2
from msgspec import Struct
from msgspec.structs import replace

from spillover.runtime.chat.abilities import probe, shown_tags
from spillover.runtime.chat.markers import (
    are_shown,
    are_tools_shown,
    lost,
    marked,
    marked_tools,
)
from spillover.runtime.chat.renderer import Renderer, TemplateFailure, TimeAllowance
from spillover.runtime.chat.sandbox import TemplateRefusal
from spillover.runtime.chat.template_values import Abilities, default_values, message_object
from spillover.runtime.chat.variants import Messages, variants
from spillover.runtime.errors import InvalidRequest, ModelError
from spillover.runtime.limited_process import LimitPassed
from spillover.runtime.request import Tool
from spillover.runtime.text.template_tags import TagPair
from spillover.runtime.tools.formats import HERMES
from spillover.runtime.tools.prompts import as_text, tool_object, with_short_ids
from spillover.runtime.tools.tool_format import ToolFormat
from spillover.runtime.tools.writer import calls_as_text

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

RENDER_S = 2.0
"""Seconds of computing that a conversation may take to render, beside those for its length."""

MESSAGES_PER_S = 100
"""Each of so many messages adds a share of a second: some templates look back at all others for
each one, and 4,096 are allowed."""

SLOW_SHARE = 0.1
"""A template that takes this much of its time is slow."""

PROBE_S = 2.0
"""Seconds of computing for finding out what a template can do."""

SHORT_ID_CHARS = 16
"""Models whose own call ids are shorter accept no longer ones."""

_RESERVED = frozenset({"messages", "tools", "bos_token", "eos_token", "add_generation_prompt"})


class RenderedPrompt(Struct, frozen=True):
    """A rendered conversation, and how it asks the model to write tool calls."""

    text: str
    tool_format: ToolFormat


class _Form(Struct, frozen=True):
    """A form of a conversation that the template may accept."""

    messages: Messages
    tools: tuple[Tool, ...]
    tool_format: ToolFormat


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
        render_s: float = RENDER_S,
    ) -> None:
        self._name = name
        self._render_s = render_s
        self.source = CHATML if source is None else source
        self._fixed = {"bos_token": bos_text, "eos_token": eos_text}
        self.is_substitute = source is None
        """ChatML stands in for a template that nobody gave."""
        if len(self.source) > MAX_TEMPLATE_CHARS:
            raise ModelError(
                f"the chat template of {name} is longer than {MAX_TEMPLATE_CHARS} characters"
            )
        try:
            self._renderer = Renderer(self.source)
        except OSError as error:
            raise ModelError(f"the chat template of {name} cannot be read: {error}") from error
        except (jinja2.TemplateError, RecursionError, TemplateFailure, LimitPassed) as error:
            raise ModelError(
                f"the chat template of {name} does not parse: {error}. Give another one: "
                "--chat-template-file FILE, or --chat-template chatml"
            ) from error
        self._abilities = Abilities()
        self.tag_pairs: tuple[TagPair, ...] = ()
        """How the model marks its reasoning, as far as the template shows it."""
        self.is_slow = False
        """Rendering has taken long: nobody should wait for a conversation of somebody else."""
        self._find_abilities()
        self.warnings = tuple(self._warnings())

    def _find_abilities(self) -> None:
        """A template that takes too long for this has none."""
        allowance = TimeAllowance(min(PROBE_S, self._render_s))

        def render(values: dict[str, Any]) -> str | None:
            try:
                return self._renderer.render({**self._fixed, **values}, allowance)
            except (TemplateRefusal, TemplateFailure):
                return None

        try:
            self._abilities = probe(render)
            self.tag_pairs = shown_tags(render, self.source)
        except LimitPassed:
            self.is_slow = True

    @property
    def tool_format(self) -> ToolFormat:
        """How the model writes tool calls, unless a prompt asks for another format."""
        return self._abilities.tool_format or HERMES

    def _warnings(self) -> Iterator[str]:
        if self.is_substitute:
            yield (
                f"{self._name} has no chat template: using ChatML, which may not fit; "
                "set chat_template_file"
            )
        if self.is_slow:
            yield (
                f"the chat template of {self._name} takes more than {PROBE_S:g} s to show what it "
                "can do: requests will be slow, and tools are explained in plain words"
            )
        if self._abilities.writes_unknown_calls:
            yield (
                f"the chat template of {self._name} writes tool calls in a format that is not "
                "supported: tools are explained to the model in plain words, which it may follow "
                "less well"
            )

    def render(
        self,
        messages: Messages,
        *,
        continue_final_message: bool = False,
        template_kwargs: dict[str, Any] | None = None,
        tools: tuple[Tool, ...] = (),
    ) -> str:
        """The text of prompt()."""
        return self.prompt(
            messages,
            continue_final_message=continue_final_message,
            template_kwargs=template_kwargs,
            tools=tools,
        ).text

    def prompt(
        self,
        messages: Messages,
        *,
        continue_final_message: bool = False,
        add_generation_prompt: bool = True,
        template_kwargs: dict[str, Any] | None = None,
        tools: tuple[Tool, ...] = (),
    ) -> RenderedPrompt:
        """The prompt, which shows all *messages*. With *continue_final_message* it ends inside the
        last one, without *add_generation_prompt* behind it. If the template cannot show tools, the
        system's message explains them.

        Raises InvalidRequest if the template refuses the conversation, fails, or leaves out a part
        of it in every form.
        """
        extra = template_kwargs or {}
        if taken := _RESERVED & extra.keys():
            raise InvalidRequest(
                f"chat_template_kwargs cannot set {', '.join(sorted(taken))}",
                "chat_template_kwargs",
            )
        mark = ""
        if continue_final_message:
            mark = f"Mq{secrets.token_hex(8)}Zx"
            last = replace(messages[-1], content=messages[-1].content + mark)
            messages = (*messages[:-1], last)
        opens_turn = add_generation_prompt and not mark
        most_s = self._render_s + len(messages) / MESSAGES_PER_S
        allowance = TimeAllowance(most_s)
        first_error: InvalidRequest | None = None
        marked_forms = self._forms(marked(messages), marked_tools(tools))
        for form, marked_form in zip(self._forms(messages, tools), marked_forms, strict=False):
            try:
                text = self._render(form, extra, allowance, opens_turn=opens_turn)
                if not self._is_whole(text, form):
                    shown = self._render(marked_form, extra, allowance, opens_turn=opens_turn)
                    self._check_marked(shown, messages, () if form.tools else tools)
                if allowance.left_s < (1 - SLOW_SHARE) * most_s:
                    self.is_slow = True
                if opens_turn:  # what opens a call or a text is the model's to write
                    text = text.removesuffix(self.tool_format.opening)
                return RenderedPrompt(self._cut_at(text, mark), form.tool_format)
            except InvalidRequest as error:
                first_error = first_error or error
                if isinstance(error.__cause__, LimitPassed):
                    self.is_slow = True
                    break
        assert first_error is not None
        raise first_error

    def _forms(self, messages: Messages, tools: tuple[Tool, ...]) -> Iterator[_Form]:
        """A template that refuses a conversation, or leaves out a part of it, may do better with
        another one of the same meaning."""
        native = self._abilities.tool_format
        if native is not None:
            if native.id_chars < SHORT_ID_CHARS:
                messages = with_short_ids(messages, native.id_chars)
            if not self._abilities.shows_calls:
                messages = calls_as_text(messages, native)
            for variant in variants(messages):
                yield _Form(variant, tools, native)
        if native is None or tools or any(m.tool_calls or m.role == "tool" for m in messages):
            for variant in variants(as_text(messages, tools)):
                yield _Form(variant, (), HERMES)

    def _is_whole(self, text: str, form: _Form) -> bool:
        """Whether *text* shows all messages of *form*, as far as can be seen at once."""
        if any(message.tool_calls for message in form.messages):
            return False
        names = (f"{message.role} {message.name}" for message in form.messages)
        beside = " ".join((self.source, *dict.fromkeys(names)))
        return are_shown(text, (message.content for message in form.messages), beside=beside)

    def _check_marked(self, shown: str, messages: Messages, tools: tuple[Tool, ...]) -> None:
        """Raise InvalidRequest if *shown*, rendered with markers, lacks one of *messages* or of
        *tools*."""
        index = lost(shown, messages)
        if index is not None:
            raise InvalidRequest(
                f"the chat template of {self._name} leaves out messages[{index}], which has the "
                f"role {messages[index].role}",
                f"messages[{index}]",
            )
        if not are_tools_shown(shown, tools):
            raise InvalidRequest(f"the chat template of {self._name} leaves out tools", "tools")

    def _cut_at(self, text: str, mark: str) -> str:
        if not mark:
            return text
        before, is_there, _ = text.rpartition(mark)
        if not is_there:
            raise InvalidRequest(
                f"the chat template of {self._name} leaves out the end of the last message, so it "
                "cannot be continued: leave continue_final_message out",
                "continue_final_message",
            )
        return before

    def _render(
        self, form: _Form, extra: dict[str, Any], allowance: TimeAllowance, *, opens_turn: bool
    ) -> str:
        values = {
            **default_values(),
            **extra,
            **self._fixed,
            "messages": [message_object(message, self._abilities) for message in form.messages],
            "add_generation_prompt": opens_turn,
        }
        if form.tools:
            values["tools"] = [tool_object(tool) for tool in form.tools]
        text = self._rendered(values, allowance)
        if not text.strip():
            raise InvalidRequest(
                f"the chat template of {self._name} renders nothing for this conversation",
                "messages",
            )
        n_content = sum(len(message.content) for message in form.messages)
        if len(text) > 2 * n_content + MAX_GROWTH_CHARS:
            raise InvalidRequest(
                f"the chat template of {self._name} makes the prompt too long", "messages"
            )
        return text

    def _rendered(self, values: dict[str, Any], allowance: TimeAllowance) -> str:
        try:
            return self._renderer.render(values, allowance)
        except TemplateRefusal as error:
            raise InvalidRequest(
                f"the chat template of {self._name} refuses this conversation: {error}", "messages"
            ) from error
        except LimitPassed as error:
            raise InvalidRequest(
                f"the chat template of {self._name} was {error}", "messages"
            ) from error
        except TemplateFailure as error:
            raise InvalidRequest(
                f"the chat template of {self._name} fails on this conversation: {error}",
                "messages",
            ) from error
