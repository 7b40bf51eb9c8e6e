"""The signals of an answer for the policies: a fold over its events and their times."""

from __future__ import annotations

import math
import re
from collections import deque

from spillover.cloud_fallback.policy.confidence import Confidence
from spillover.cloud_fallback.policy.reason import CapacityCode
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.text.coverage import PromptCoverage
from spillover.cloud_fallback.policy.text.leaks import Leaks
from spillover.cloud_fallback.policy.text.loops import Loops
from spillover.cloud_fallback.policy.text.refusals import Refusals
from spillover.cloud_fallback.policy.text.scripts import Scripts
from spillover.cloud_fallback.policy.text.tasks import Task
from spillover.runtime.events import (
    Delta,
    EngineEvent,
    Prefilling,
    Queued,
    ReasoningDelta,
    TokenLogprob,
    ToolCallDelta,
)
from spillover.runtime.request import GenerationRequest, JsonObject, JsonSchema, ResponseFormat
from spillover.runtime.text.json_reader import JsonReader, Opening
from spillover.runtime.text.markdown import Fences

_WORD = re.compile(rb"[0-9A-Za-z\x80-\xff]")
_RATE_TOKENS, _RATE_EVERY = 32, 8
_MAX_KNOWN_TOKENS = 65_536
_END_CHARS = 2_048
_LATE = math.log1p(64)
"""From 64 tokens on, it hardly matters how much of the answer is there."""


class Signals:
    """The state of one local leg; the same events and times always give the same state.

    Each token costs the same, however long the answer is. Only choice 0 counts.
    """

    def __init__(self, request: GenerationRequest, settings: PolicySettings, now: float) -> None:
        prompts = [m.content for m in request.messages if m.role == "user"]
        begun = request.messages[-1].content if request.continue_final_message else ""
        if isinstance(request.prompt, str):
            prompts.append(request.prompt)
        conversation = "\n".join((*prompts, *(m.content for m in request.messages)))
        self.wait: tuple[CapacityCode, float] = "queue", now
        """What it is waiting for, named by the reason for a wait that is too long, and since when:
        its turn, its first token, KV cells (back in the queue in mid-answer), or the next token."""
        self.n_prompt_tokens: int | None = None
        self.n_tokens = 0
        self.n_reasoning_tokens = 0
        self.n_chars = 0
        self.best_rate = 0.0
        self.has_text = not begun.isspace() and bool(begun)
        self.has_reasoned = False
        self.text = Confidence()
        self.code = Confidence()
        self.reasoning = Confidence()
        self.track = self.text
        """The confidence for the kind of text that came last."""
        self.loops = Loops(settings.loop_tokens, settings.loop_copies, settings.near_loop_count)
        self.fences = Fences()
        self.leaks = Leaks(conversation)
        self.scripts = Scripts(prompts, settings.foreign_letters)
        # A refusal comes at the beginning of an answer, and only in a chat.
        self.refusals = Refusals(settings.refusal_chars if request.messages and not begun else 0)
        self.coverage = PromptCoverage(prompts[-1] if prompts else "")
        self.task = Task(prompts[-1] if prompts else "")
        self.json = _json_of(request.response_format)
        self.document: list[str] = [begun] if self.json is not None else []
        """The whole text if JSON was requested, else nothing."""
        self.calls: dict[int, JsonReader] = {}
        self._n_begun = len(begun)
        self._prefill_since: float | None = None
        self._last_token_at: float | None = None
        self._next_rate = _RATE_TOKENS
        self._times: deque[float] = deque(maxlen=_RATE_TOKENS)
        self._has_word: dict[int, bool] = {}
        self._ends: deque[str] = deque()
        self._n_end_chars = 0
        # The text of earlier legs, which this one continues.
        self.fences.feed(begun)
        self.coverage.feed(begun)
        if self.json is not None:
            self.json.feed(begun)

    def see(self, event: EngineEvent, now: float) -> None:
        """Take the next event, which came at *now*."""
        match event:
            case Delta(choice=0):
                self._count(event.token_ids, now)
                self._take_text(event)
            case ReasoningDelta(choice=0):
                self._count(event.token_ids, now)
                self.n_reasoning_tokens += len(event.token_ids)
                self._take_reasoning(event)
            case ToolCallDelta(choice=0):
                self._count(event.token_ids, now)
                self._take_call(event)
            case Queued():
                self.n_prompt_tokens = event.n_prompt_tokens
                if self.wait[0] in ("ttft", "slow"):
                    self.wait = "queue" if self._last_token_at is None else "kv_full", now
            case Prefilling():
                self.n_prompt_tokens = event.n_prompt_tokens
                if self._prefill_since is None:
                    self._prefill_since = now
                if self._last_token_at is None:
                    self.wait = "ttft", self._prefill_since
                else:
                    self.wait = "slow", self._last_token_at

    def _count(self, token_ids: tuple[int, ...], now: float) -> None:
        self._last_token_at = now
        self.wait = "slow", now
        self.n_tokens += len(token_ids)
        times = self._times
        for _ in token_ids:
            times.append(now)
        if self.n_tokens >= self._next_rate:
            self._next_rate = self.n_tokens + _RATE_EVERY
            self.best_rate = max(self.best_rate, self.rate or 0.0)

    @property
    def rate(self) -> float | None:
        """Tokens per second over the last 32; None until there are 32."""
        times = self._times
        if len(times) < _RATE_TOKENS:
            return None
        span = times[-1] - times[0]
        return (_RATE_TOKENS - 1) / span if span > 0.0 else None

    def _take_text(self, event: Delta) -> None:
        text, start = event.text, self.n_chars
        was_inside = self.fences.inside
        if text:
            self._feed_text(text, start)
        on_fence = self.fences.on_fence_line
        inside = was_inside or self.fences.inside
        self.track = self.code if inside else self.text
        if not on_fence:
            self._take_logprobs(event.logprobs)
        ids, words = event.token_ids, self._has_word
        starts = _starts(event, start) if len(ids) > 1 else (start,)
        for token, token_start in zip(ids, starts, strict=False):
            self.loops.push(token, token_start, has_word=words.get(token, True))

    def _take_reasoning(self, event: ReasoningDelta) -> None:
        self.track = self.reasoning
        self.has_reasoned = self.has_reasoned or bool(event.text.strip())
        self._take_logprobs(event.logprobs)
        self._remember_end(event.text)
        words = self._has_word
        for token in event.token_ids:
            self.loops.push(token, self.n_chars, has_word=words.get(token, True))

    def _feed_text(self, text: str, start: int) -> None:
        self.n_chars = start + len(text)
        self.fences.feed(text)
        if not self.has_text and not text.isspace():
            self.has_text = True
        if not self.fences.inside:
            self.leaks.feed(text, start)
            self.scripts.feed(text, start)
        self.refusals.feed(text)
        self.coverage.feed(text)
        if self.json is not None:
            self.json.feed(text)
            self.document.append(text)
        self._remember_end(text)
        self.task.feed(text, self.text_end)

    def _remember_end(self, text: str) -> None:
        self._ends.append(text)
        self._n_end_chars += len(text)
        while self._n_end_chars - len(self._ends[0]) > _END_CHARS:
            self._n_end_chars -= len(self._ends.popleft())

    def text_end(self) -> str:
        """About the last two thousand characters, including reasoning."""
        return "".join(self._ends)

    def _take_logprobs(self, logprobs: tuple[TokenLogprob, ...]) -> None:
        words = self._has_word
        for token in logprobs:
            has_word = words.get(token.token_id)
            if has_word is None:
                has_word = _WORD.search(token.token) is not None
                if len(words) < _MAX_KNOWN_TOKENS:
                    words[token.token_id] = has_word
            # The first token shows how answers begin, not how sure the model is of this one.
            if has_word and self.n_tokens > 1:
                self.track.push(token)

    def _take_call(self, event: ToolCallDelta) -> None:
        call = self.calls.get(event.index)
        if call is None:
            call = self.calls[event.index] = JsonReader("{", alone=True)
        call.feed(event.arguments)
        self.track = self.code
        self._take_logprobs(event.logprobs)

    @property
    def broken_at(self) -> int | None:
        """Where the requested JSON becomes invalid in this leg's text."""
        if self.json is None or self.json.error_at is None:
            return None
        return max(self.json.error_at - self._n_begun, 0)

    def features(self) -> dict[str, float]:
        """The features of P(wrong): the confidence of the current track, the task, the text, and
        how much of it is there (0 to 1)."""
        return (
            self.track.features()
            | self.task.features()
            | {
                "position": min(math.log1p(self.n_tokens) / _LATE, 1.0),
                "distinct_4grams": self.loops.distinct_share,
                "refusal": float(self.refusals.found),
                "uncovered": self.coverage.uncovered,
            }
        )


def _starts(event: Delta, start: int) -> list[int]:
    """Where in the answer each token of *event* begins; all at the event's own start if their bytes
    are not its text."""
    pieces = [token.token for token in event.logprobs]
    if len(pieces) != len(event.token_ids) or b"".join(pieces) != event.text.encode():
        return [start] * len(event.token_ids)
    starts = []
    for piece in pieces:
        starts.append(start)
        start += len(piece.decode(errors="ignore"))
    return starts


def _json_of(response_format: ResponseFormat | None) -> JsonReader | None:
    match response_format:
        case JsonObject():
            return JsonReader("{", alone=True)
        case JsonSchema():
            return JsonReader(_opening(response_format.schema.get("type")), alone=True)
    return None


def _opening(kind: object) -> Opening:
    return "{" if kind == "object" else "[" if kind == "array" else ""
