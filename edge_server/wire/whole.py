"""Events to one whole answer, for clients that do not stream."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from spillover.cloud_fallback.events import Failed, Handoff, Replace, Seam, StreamEvent
from spillover.edge_server.wire import handoff
from spillover.edge_server.wire.answer import (
    AnswerHead,
    Totals,
    chat_logprobs,
    completion_logprobs,
    timings,
    valid_text,
)
from spillover.edge_server.wire.completions import Completions
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.tools import Calls
from spillover.runtime.events import Delta, ReasoningDelta, TokenLogprob, ToolCallDelta


class Choice:
    """What has come of one choice."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.calls = Calls()


class WholeAnswer:
    """Takes all events of a stream; body() is the answer, or raises WireError."""

    def __init__(
        self, head: AnswerHead, n: int, *, is_chat: bool, logprobs: bool, n_each: int | None = None
    ) -> None:
        self._head = head
        self._is_chat = is_chat
        self._logprobs = logprobs
        self._choices = [Choice() for _ in range(n)]
        self._totals = Totals(n_each or n)
        self._failed: Failed | None = None
        self._routed: list[dict[str, Any]] = []
        self._model: str | None = None

    def add(self, event: StreamEvent) -> None:
        self._totals.add(event)
        match event:
            case Delta():
                self._choices[event.choice].text.append(event.text)
                self._choices[event.choice].logprobs.extend(event.logprobs)
            case ReasoningDelta():
                self._choices[event.choice].reasoning.append(event.text)
                self._choices[event.choice].logprobs.extend(event.logprobs)
            case ToolCallDelta():
                self._choices[event.choice].calls.add(event)
                self._choices[event.choice].logprobs.extend(event.logprobs)
            case Failed():
                self._failed = event
            case Replace(choice=index, keep_chars=keep):
                self._choices[index].text = ["".join(self._choices[index].text)[:keep]]
            case Handoff() | Seam():
                self._routed.append(handoff.named(event)[1])
                if isinstance(event, Handoff):
                    self._model = event.target.model

    def body(self) -> bytes:
        """The JSON of the answer. An answer that broke off is an error, never half an answer."""
        finished = self._totals.finished
        if self._failed is not None:
            raise WireError(500, self._failed.code, self._failed.message)
        if len(finished) < len(self._choices) or any(
            event.reason == "cancelled" for event in finished.values()
        ):
            raise WireError(499, "cancelled", "the answer was cancelled")
        kind = "chat.completion" if self._is_chat else "text_completion"
        shape = self._chat_choice if self._is_chat else self._text_choice
        return msgspec.json.encode(
            {
                **self._head.fields(kind),
                **({"model": self._model, "spillover": self._routed} if self._model else {}),
                "choices": [
                    {
                        "index": index,
                        **shape(self._choices[number]),
                        "finish_reason": finished[number].reason,
                    }
                    for index, number in enumerate(self._shown())
                ],
                "usage": self._totals.usage(),
                "timings": timings(finished[0]),
            }
        )

    def _shown(self) -> list[int]:
        """The numbers of the choices that the client sees, in order."""
        return list(range(len(self._choices)))

    def _chat_choice(self, choice: Choice) -> dict[str, Any]:
        text = valid_text("".join(choice.text))
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if choice.calls:
            message |= {"content": text or None, "tool_calls": choice.calls.objects()}
        if choice.reasoning:
            message["reasoning_content"] = valid_text("".join(choice.reasoning))
        logprobs = chat_logprobs(tuple(choice.logprobs)) if self._logprobs else None
        return {"message": message, "logprobs": logprobs}

    def _text_choice(self, choice: Choice) -> dict[str, Any]:
        logprobs = completion_logprobs(tuple(choice.logprobs), 0) if self._logprobs else None
        return {"text": valid_text("".join(choice.text)), "logprobs": logprobs}


class WholeCompletions(WholeAnswer):
    """Text completions of several prompts, some with the prompt in front; of each prompt the best
    choices when more were made than are wanted."""

    def __init__(self, head: AnswerHead, completions: Completions, *, logprobs: bool) -> None:
        self._n_each = completions.requests[0].n
        n = self._n_each * len(completions.requests)
        super().__init__(head, n, is_chat=False, logprobs=logprobs, n_each=self._n_each)
        self._n_wanted = completions.n_wanted
        for number, choice in enumerate(self._choices):
            choice.text.append(completions.echoes[number // self._n_each])

    def _shown(self) -> list[int]:
        if self._n_wanted == self._n_each:
            return super()._shown()
        shown = []
        for first in range(0, len(self._choices), self._n_each):
            group = range(first, first + self._n_each)
            shown += sorted(group, key=self._mean_logprob, reverse=True)[: self._n_wanted]
        return shown

    def _mean_logprob(self, number: int) -> float:
        """OpenAI's measure of the best: the highest log probability per token."""
        records = self._choices[number].logprobs
        return sum(r.logprob for r in records) / len(records) if records else -math.inf
