"""Plans the next writer's request, and how its text will join the answer so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from spillover.cloud_fallback.errors import CannotContinue
from spillover.cloud_fallback.events import HandoffMode
from spillover.cloud_fallback.seam.notices import (
    anchor_of,
    complete_notice,
    continue_notice,
    is_worth_keeping,
    rewrite_notice,
)
from spillover.runtime.events import Origin
from spillover.runtime.request import GenerationRequest, JsonObject, JsonSchema, Message
from spillover.runtime.text.folding import n_trailing_blank
from spillover.runtime.text.graphemes import n_unfinished
from spillover.runtime.text.json_reader import JsonReader
from spillover.runtime.text.languages import language_of
from spillover.runtime.text.sentences import good_boundary
from spillover.runtime.text.template_tags import has_tags, leak_start, n_open_tag

Join: TypeAlias = Literal["fresh", "echo", "rewrite", "restart", "prefill"]
"""What the new writer's text should begin with: anything (fresh); the anchor (echo); the whole
answer so far, which it was shown (rewrite); the answer from its start (restart); what comes next
(prefill). Only "fresh" is not checked."""

ECHO_RESERVE_TOKENS = 16
BYTES_PER_ECHO_TOKEN = 2
"""Room for the repeated text: no tokenizer averages fewer bytes per token."""


class Continuation(Struct, frozen=True, kw_only=True):
    """The request for the next writer and what the seam must know about it."""

    request: GenerationRequest
    join: Join
    context: str = ""
    """Text before the answer that the new writer continues too: a raw prompt, or the assistant's
    turn that the client asked to continue."""
    kept: str = ""
    """The part of the answer that is continued."""
    n_said: int
    """Characters of the answer so far, as the client has it."""
    keep_chars: int
    """How many of them to keep; if fewer than n_said, Replace comes before the new text."""
    shown: str = ""
    """What the new writer sees of context + kept: all but a trailing blank or incomplete end."""
    anchor: str = ""
    left_behind: str = ""
    """Bad text that was sent and cannot be taken back; the new text follows it."""
    is_json: bool = False
    can_replace: bool = False
    is_local: bool = False
    """The local model surely continues its own turn."""
    language: str = "en"

    @property
    def takes_back(self) -> bool:
        """Whether Replace(keep_chars) comes first."""
        return self.keep_chars < self.n_said

    @property
    def pending(self) -> str:
        """The end of context + kept that the new writer was not shown."""
        return (self.context + self.kept)[len(self.shown) :]


def plan_continuation(
    request: GenerationRequest,
    said: str,
    *,
    mode: HandoffMode = "continue",
    target: Origin = "cloud",
    prefill: bool = False,
    can_replace: bool = False,
    keep_chars: int | None = None,
    tokens_left: int | None = None,
    reasoning_reserve: int = 0,
    tokenize: Callable[[str], tuple[int, ...]] | None = None,
) -> Continuation:
    """Plan the request that makes *target* continue the answer to *request* after *said*, the text
    of all legs.

    *prefill*: the target continues an assistant's turn; a local one always does. *can_replace*: the
    client accepts Replace events. *keep_chars*: the text after it is known to be bad. Text after a
    leaked template tag, open reasoning or half a tool call is never sent, whatever *keep_chars* is.
    *tokens_left*: what remains of max_tokens, at least 1. *tokenize*: needed to continue a prompt
    of token ids locally.

    "restart" takes text back, so without *can_replace* it means "continue" once the client has
    text. "finish_sentence" plans as "continue"; "at_turn" is for a new turn, before any text.
    Raises CannotContinue for an answer that only the local model can continue.
    """
    assert tokens_left is None or tokens_left > 0, "an answer without tokens left has ended"
    assert mode != "at_turn" or not said, "at_turn hands over between two answers"
    good = _good_chars(request, said, keep_chars)
    if can_replace and good == len(said):
        good -= n_open_tag(said)
    if mode == "restart" and can_replace:
        good = 0
    kept = said[:good]
    asked = [message.content for message in request.messages if message.role == "user"]
    plan = Continuation(
        request=request,
        join="fresh",
        context=_context(request),
        kept=kept,
        n_said=len(said),
        keep_chars=good if can_replace else len(said),
        left_behind="" if can_replace else said[good:],
        is_json=isinstance(request.response_format, JsonObject | JsonSchema),
        can_replace=can_replace,
        language=language_of("\n".join([kept[-200:], *asked[-2:]])),
    )
    if plan.left_behind.strip() and request.response_format is not None:
        raise CannotContinue("the answer holds bad text, which its response format does not allow")
    if target == "local":
        plan = _local(plan, tokenize)
    elif request.prompt is not None:
        plan = _completion(plan)
    else:
        plan = _conversation(plan, prefill=prefill and request.response_format is None)
    return replace(plan, request=_limited(plan, target, tokens_left, reasoning_reserve))


def _good_chars(request: GenerationRequest, said: str, keep_chars: int | None) -> int:
    """How much of *said* may be continued: all of it, or up to a boundary before bad text."""
    leak = leak_start(said, has_tools=bool(request.tools) and request.response_format is None)
    limits = [limit for limit in (keep_chars, leak) if limit is not None]
    if not limits or min(limits) >= len(said):
        return len(said)
    return good_boundary(said, min(limits))


def _context(request: GenerationRequest) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    return request.messages[-1].content if request.continue_final_message else ""


def _shown(text: str, *, is_json: bool) -> str:
    """*text* without an end that no writer could continue: blanks, half a character, half an
    escape, or half a possible leaked tag."""
    if is_json:
        document = JsonReader()
        document.feed(text)
        text = text[: len(text) - document.n_cut_escape]
    while stripped := n_unfinished(text) or n_trailing_blank(text) or n_open_tag(text):
        text = text[: len(text) - stripped]
    return text


def _local(plan: Continuation, tokenize: Callable[[str], tuple[int, ...]] | None) -> Continuation:
    """A plan for the local model, which reads the answer so far as its own, whatever its length."""
    request = plan.request
    known = plan.context + plan.kept
    if not plan.kept:
        return replace(plan, shown=known)
    # A response format counts every blank, so the model must see the text as it was sent.
    shown = known if request.response_format is not None else _shown(known, is_json=False)
    if isinstance(request.prompt, str):
        begun = request.begun + shown[len(request.prompt) :]
        request = replace(request, prompt=shown, begun=begun)
    elif request.prompt is not None:
        if tokenize is None:
            raise CannotContinue("continuing a prompt of token ids takes the model's tokenizer")
        begun = request.begun + shown
        request = replace(request, prompt=(*request.prompt, *tokenize(shown)), begun=begun)
    else:
        messages = (*_history(request), Message(role="assistant", content=shown))
        request = replace(request, messages=messages, continue_final_message=True)
    return replace(plan, request=request, join="prefill", shown=shown, is_local=True)


def _history(request: GenerationRequest) -> tuple[Message, ...]:
    """The conversation before the answer."""
    return request.messages[:-1] if request.continue_final_message else request.messages


def _completion(plan: Continuation) -> Continuation:
    """A raw prompt, as a text that a chat model should continue."""
    request = plan.request
    if not isinstance(request.prompt, str):
        raise CannotContinue("another model cannot read a prompt of token ids")
    if request.response_format is not None:
        raise CannotContinue("a raw prompt with a response format can only be served locally")
    if has_tags(request.prompt):
        raise CannotContinue("the raw prompt holds tags of the local model's chat template")
    shown = _shown(plan.context + plan.kept, is_json=False)
    if not is_worth_keeping(shown):
        raise CannotContinue("the raw prompt is too short for another model to continue")
    anchor = anchor_of(shown)
    notice = complete_notice(anchor, shown)
    request = replace(request, prompt=None, messages=(Message(role="user", content=notice),))
    return replace(plan, request=request, join="echo", shown=shown, anchor=anchor)


def _conversation(plan: Continuation, *, prefill: bool) -> Continuation:
    request = plan.request
    known = plan.context + plan.kept
    if not known:
        return plan
    shown = _shown(known, is_json=plan.is_json)
    if prefill and shown:
        return replace(plan, request=_with_turns(request, shown), join="prefill", shown=shown)
    if not is_worth_keeping(shown):
        anew = replace(request, messages=_history(request), continue_final_message=False)
        return replace(plan, request=anew, join="restart", shown=shown)
    anchor = anchor_of(shown)
    is_whole = request.response_format is not None
    write = rewrite_notice if is_whole else continue_notice
    notice = write(anchor, plan.language)
    return replace(
        plan,
        request=_with_turns(request, shown, notice),
        join="rewrite" if is_whole else "echo",
        shown=shown,
        anchor=anchor,
    )


def _with_turns(request: GenerationRequest, shown: str, notice: str = "") -> GenerationRequest:
    """The conversation with the answer so far and the *notice*, if there is one."""
    history = _history(request)
    if history and history[-1].role == "assistant" and not history[-1].tool_calls:
        shown = f"{history[-1].content}\n\n{shown}"
        history = history[:-1]
    messages = (*history, Message(role="assistant", content=shown))
    if notice:
        messages = (*messages, Message(role="user", content=notice))
    return replace(request, messages=messages, continue_final_message=not notice)


def _limited(
    plan: Continuation, target: Origin, tokens_left: int | None, reasoning_reserve: int
) -> GenerationRequest:
    """The plan's request with the leg's own tokens, stop strings and tools."""
    request = replace(plan.request, n=1)
    repeats = plan.join in ("echo", "rewrite", "restart")
    if tokens_left is not None:
        room = 0 if target == "local" else reasoning_reserve
        if repeats:
            repeated = plan.anchor if plan.join == "echo" else plan.shown
            n_bytes = len(repeated.encode(errors="replace"))
            room += ECHO_RESERVE_TOKENS + n_bytes // BYTES_PER_ECHO_TOKEN
        request = replace(request, max_tokens=tokens_left + room)
    if plan.join != "fresh" and request.tool_choice not in ("auto", "none"):
        # The choice may have been obeyed already, and the client has received text since.
        request = replace(request, tool_choice="auto")
    if target == "local":
        return request
    if repeats:
        # The repeated text or a preamble may hold one. AnswerText finds the answer's own.
        request = replace(request, stop=())
    sampling = replace(request.sampling, logit_bias={})
    return replace(request, sampling=sampling, logprobs=None, ignore_eos=False)
