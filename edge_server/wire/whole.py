"""Events to one whole answer, for clients that do not stream."""

from __future__ import annotations

from typing import Any

import msgspec

from spillover.edge_server.wire.answer import (
    AnswerHead,
    Totals,
    chat_logprobs,
    completion_logprobs,
    timings,
)
from spillover.edge_server.wire.errors import WireError
from spillover.runtime.events import Delta, Failed, ReasoningDelta, StreamEvent, TokenLogprob


class _Choice:
    """What has come of one choice."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.logprobs: list[TokenLogprob] = []


class WholeAnswer:
    """Takes all events of a stream; body() is the answer, or raises WireError."""

    def __init__(self, head: AnswerHead, n: int, *, is_chat: bool, logprobs: bool) -> None:
        self._head = head
        self._is_chat = is_chat
        self._logprobs = logprobs
        self._choices = [_Choice() for _ in range(n)]
        self._totals = Totals()
        self._failed: Failed | None = None

    def add(self, event: StreamEvent) -> None:
        self._totals.add(event)
        match event:
            case Delta():
                self._choices[event.choice].text.append(event.text)
                self._choices[event.choice].logprobs.extend(event.logprobs)
            case ReasoningDelta():
                self._choices[event.choice].reasoning.append(event.text)
                self._choices[event.choice].logprobs.extend(event.logprobs)
            case Failed():
                self._failed = event

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
                "choices": [
                    {
                        "index": index,
                        **shape(choice),
                        "finish_reason": finished[index].reason,
                    }
                    for index, choice in enumerate(self._choices)
                ],
                "usage": self._totals.usage(),
                "timings": timings(finished[0]),
            }
        )

    def _chat_choice(self, choice: _Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(choice.text)}
        if choice.reasoning:
            message["reasoning_content"] = "".join(choice.reasoning)
        logprobs = chat_logprobs(tuple(choice.logprobs)) if self._logprobs else None
        return {"message": message, "logprobs": logprobs}

    def _text_choice(self, choice: _Choice) -> dict[str, Any]:
        logprobs = completion_logprobs(tuple(choice.logprobs), 0) if self._logprobs else None
        return {"text": "".join(choice.text), "logprobs": logprobs}
