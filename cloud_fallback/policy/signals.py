"""Everything the policies look at: a fold over an answer's events and the clock's readings."""

from __future__ import annotations

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


class Signals:
    """The state of one local leg; the same events and times always give the same state.

    Each token costs the same however long the answer is. Counts and places are of the answer of
    choice 0.
    """

    def __init__(self, request: GenerationRequest, settings: PolicySettings, now: float) -> None:
        prompts = [m.content for m in request.messages if m.role == "user"]
        begun = request.messages[-1].content if request.continue_final_message else ""
        if isinstance(request.prompt, str):
            prompts.append(request.prompt)
        conversation = "\n".join((*prompts, *(m.content for m in request.messages)))
        self.started_at = now
        self.accepted = False
        self.waits_since: float | None = now
        """Since when it waits in the queue; None: it does not."""
        self.prefill_since: float | None = None
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.position = 0
        self.n_prompt_tokens: int | None = None
        self.n_tokens = 0
        self.n_chars = 0
        self.best_rate = 0.0
        self.has_text = not begun.isspace() and bool(begun)
        self.has_calls = False
        self.text = Confidence()
        self.code = Confidence()
        self.reasoning = Confidence()
        self.track = self.text
        """The statistics of the kind of text that came last."""
        self.loops = Loops(settings.loop_tokens, settings.loop_copies, settings.near_loop_count)
        self.fences = Fences()
        self.leaks = Leaks(conversation)
        self.scripts = Scripts(prompts, settings.foreign_letters)
        # What is no answer's beginning can be no refusal.
        self.refusals = Refusals(settings.refusal_chars if request.messages and not begun else 0)
        self.coverage = PromptCoverage(prompts[-1] if prompts else "")
        self.json = _json_of(request.response_format)
        self.document: list[str] = [begun] if self.json is not None else []
        """The whole text where JSON was asked for; else nothing."""
        self.calls: dict[int, JsonReader] = {}
        self._n_begun = len(begun)
        self._take_begun(begun)
        self._next_rate = _RATE_TOKENS
        self._times: deque[float] = deque(maxlen=_RATE_TOKENS)
        self._has_word: dict[int, bool] = {}
        self._ends: deque[str] = deque()
        self._n_end_chars = 0

    def _take_begun(self, text: str) -> None:
        """The answer's text of earlier legs, which this one goes on with."""
        self.fences.feed(text)
        self.coverage.feed(text)
        if self.json is not None:
            self.json.feed(text)

    def see(self, event: EngineEvent, now: float) -> None:
        """Take the next event, which came at *now*."""
        match event:
            case Delta(choice=0):
                self._count(event.token_ids, now)
                self._take_text(event)
            case ReasoningDelta(choice=0):
                self._count(event.token_ids, now)
                self._take_reasoning(event)
            case ToolCallDelta(choice=0):
                self._count(event.token_ids, now)
                self._take_call(event)
            case Queued():
                self._take_queued(event, now)
            case Prefilling():
                self._take_prefilling(event, now)

    def _take_queued(self, event: Queued, now: float) -> None:
        self.accepted = True
        self.position = event.position
        self.n_prompt_tokens = event.n_prompt_tokens
        if self.waits_since is None:
            self.waits_since = now

    def _take_prefilling(self, event: Prefilling, now: float) -> None:
        self.n_prompt_tokens = event.n_prompt_tokens
        self.waits_since = None
        if self.prefill_since is None:
            self.prefill_since = now

    def _count(self, token_ids: tuple[int, ...], now: float) -> None:
        self.waits_since = None
        if self.first_token_at is None:
            self.first_token_at = now
        self.last_token_at = now
        self.n_tokens += len(token_ids)
        times = self._times
        for _ in token_ids:
            times.append(now)
        if self.n_tokens >= self._next_rate:
            self._next_rate = self.n_tokens + _RATE_EVERY
            self.best_rate = max(self.best_rate, self.rate or 0.0)

    @property
    def rate(self) -> float | None:
        """Tokens per second over the last 32; None before there are so many."""
        times = self._times
        if len(times) < _RATE_TOKENS:
            return None
        span = times[-1] - times[0]
        return (_RATE_TOKENS - 1) / span if span > 0.0 else None

    @property
    def wait(self) -> tuple[CapacityCode, float]:
        """What it is waiting for, named by the reason that too long a wait gives, and since when:
        for its turn, its first token, KV cells (back in the queue in mid-answer), or a token."""
        if self.waits_since is not None:
            return "queue" if self.first_token_at is None else "kv_full", self.waits_since
        if self.last_token_at is None:
            return "ttft", self.prefill_since or self.started_at
        return "slow", self.last_token_at

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
        for token, place in zip(ids, starts, strict=False):
            self.loops.push(token, place, has_word=words.get(token, True))

    def _take_reasoning(self, event: ReasoningDelta) -> None:
        self.track = self.reasoning
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

    def _remember_end(self, text: str) -> None:
        self._ends.append(text)
        self._n_end_chars += len(text)
        while self._n_end_chars - len(self._ends[0]) > _END_CHARS:
            self._n_end_chars -= len(self._ends.popleft())

    def text_end(self) -> str:
        """About the last two thousand characters, reasoning included."""
        return "".join(self._ends)

    def _take_logprobs(self, logprobs: tuple[TokenLogprob, ...]) -> None:
        words = self._has_word
        for token in logprobs:
            has_word = words.get(token.token_id)
            if has_word is None:
                has_word = _WORD.search(token.token) is not None
                if len(words) < _MAX_KNOWN_TOKENS:
                    words[token.token_id] = has_word
            # The first token after the template says how answers begin, not how sure this one is.
            if has_word and self.n_tokens > 1:
                self.track.push(token)

    def _take_call(self, event: ToolCallDelta) -> None:
        self.has_calls = True
        call = self.calls.get(event.index)
        if call is None:
            call = self.calls[event.index] = JsonReader("{", alone=True)
        call.feed(event.arguments)
        self.track = self.code
        self._take_logprobs(event.logprobs)

    @property
    def broken_at(self) -> int | None:
        """Where this leg's text stops being the JSON that was asked for."""
        if self.json is None or self.json.error_at is None:
            return None
        return max(self.json.error_at - self._n_begun, 0)

    def features(self) -> dict[str, float]:
        """What P(wrong) may be made of: the confidence of the current track, and the text."""
        return self.track.features() | {
            "distinct_4grams": self.loops.distinct_share,
            "refusal": float(self.refusals.found),
            "uncovered": self.coverage.uncovered,
        }


def _starts(event: Delta, start: int) -> list[int]:
    """Where in the answer the text of each token of *event* begins: the event's own start for all
    of them when their bytes are not its text."""
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
