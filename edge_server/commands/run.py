"""spillover run: one prompt, one answer; made for pipes."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import msgspec

from spillover.cloud_fallback.events import Failed, StreamEvent
from spillover.edge_server.commands.loading import model_store
from spillover.edge_server.commands.options import (
    CONVERSATION_SETTINGS,
    load_config,
    model_argument,
    parse_field,
    setting_options,
)
from spillover.edge_server.commands.output import (
    AnswerOutput,
    answer_to_stdout,
    print_note,
    remarks_to_stderr,
)
from spillover.edge_server.commands.routed import routed_conversation
from spillover.edge_server.config.config import load
from spillover.models import catalogue
from spillover.runtime.errors import SpilloverError
from spillover.runtime.events import Delta, Finished, ReasoningDelta
from spillover.runtime.request import GenerationRequest, Message
from spillover.runtime.text.surrogates import valid_text

_EPILOG = """\b
Examples:
  spillover run "Tell me a story about a dog named Max." --temp 0.7
  spillover run ~/models/qwen3-0.6b-Q4_K_M.gguf "Why is the sky blue?"
  spillover run "Summarize this:" < notes.txt > summary.txt
  echo "Once upon a time" | spillover run --raw --max-tokens 50

The answer goes to standard output, and everything else to standard error.
"""
_INTERRUPTED = "spillover: the answer was interrupted: no model could finish it"


@click.command("run", epilog=_EPILOG)
@model_argument
@click.argument("prompt", required=False)
@click.option("--system", metavar="TEXT", help="System message.")
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without a chat template.")
@click.option(
    "--stop",
    multiple=True,
    metavar="TEXT",
    help="End before this text; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each event as one line of JSON.")
@setting_options(CONVERSATION_SETTINGS)
def command(
    model: str | None,
    model_flag: str | None,
    prompt: str | None,
    system: str | None,
    raw: bool,
    stop: tuple[str, ...],
    as_json: bool,
    config_flag: Path | None,
    **flags: Any,
) -> None:
    """Answer PROMPT, standard input, or PROMPT followed by standard input.

    A single argument is the PROMPT, unless it is the name or the path of a model.
    """
    if raw and system:
        raise click.UsageError("--system needs the chat template: leave out --raw")
    if prompt is None and model and (model_flag or not _is_model(model, config_flag)):
        model, prompt = None, model
    text = _whole_prompt(prompt, raw=raw)
    asked = {"prompt": text} if raw else {"messages": _messages(text, system)}
    flags |= {"model": model, "model_flag": model_flag}
    settings = load_config(flags, config_flag).settings
    request = GenerationRequest(
        **asked,
        sampling=settings.answers.sampling,
        max_tokens=settings.answers.max_tokens,
        stop=parse_field(GenerationRequest, "stop", stop, "--stop"),
    ).checked()
    with routed_conversation(settings) as engine, closing(engine.stream(request)) as events:
        _print_json(events) if as_json else print_text(events, engine.notes)


def _is_model(text: str, config_flag: Path | None) -> bool:
    settings = load({}, environ=os.environ, config_flag=config_flag).settings
    return catalogue.is_model(text, model_store(settings))


def _messages(prompt: str, system: str | None) -> tuple[Message, ...]:
    user = Message(role="user", content=prompt)
    return (Message(role="system", content=system), user) if system else (user,)


def _whole_prompt(argument: str | None, *, raw: bool) -> str:
    """The argument, standard input, or both with an empty line in between."""
    parts = [argument] if argument else []
    if _has_input(required=not argument):
        try:
            text = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise click.UsageError(f"standard input is not UTF-8 text: {error}") from error
        parts.append(text if raw else text.strip("\n"))
    prompt = "\n\n".join(part for part in parts if part)
    if prompt != valid_text(prompt):
        raise click.UsageError("the prompt is not UTF-8 text")
    if not prompt.strip():
        raise click.UsageError("there is no prompt: pass it as an argument or on standard input")
    return prompt


def _has_input(*, required: bool) -> bool:
    """Whether to read standard input; where that is optional, only a file or a pipe.

    The program that started us may have left us an open device or socket that never ends.
    """
    if sys.stdin is None or sys.stdin.isatty():
        return False
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except OSError:  # closed, or not a file
        return False
    return required or stat.S_ISREG(mode) or stat.S_ISFIFO(mode)


def print_text(events: Iterable[StreamEvent], notes: AnswerOutput) -> None:
    """Print an answer; *notes* is where handoffs are shown."""
    answer = answer_to_stdout(beside=notes)
    reasoning = remarks_to_stderr(beside=notes)
    try:
        for event in events:
            match event:
                case ReasoningDelta(text=text):
                    reasoning.write(text)
                case Delta(text=text):
                    reasoning.end_line()
                    answer.write(text)
                case Finished(reason=reason, usage=usage):
                    answer.end_line()
                    if reason == "length":
                        print_note(_cut_note(usage.completion_tokens))
                    elif reason == "interrupted":
                        print_note(
                            "spillover: the answer was interrupted: no model could finish it"
                        )
    finally:
        answer.end_line()


def _cut_note(n_tokens: int) -> str:
    return (
        f"spillover: the answer was cut after {n_tokens} tokens: "
        "raise --n-predict, or --n-ctx if the context is full"
    )


def _print_json(events: Iterable[StreamEvent]) -> None:
    output = answer_to_stdout(wraps=False)
    try:
        for event in events:
            _print_line(event, output)
    except SpilloverError as error:
        _print_line(Failed(code=type(error).__name__, message=str(error)), output)
        raise


def _print_line(event: StreamEvent, output: AnswerOutput) -> None:
    output.write(msgspec.json.encode(event).decode() + "\n")
