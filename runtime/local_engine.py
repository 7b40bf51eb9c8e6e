"""A local model as an engine: a worker process, kept alive, behind stream().

The caller's thread iterates stream(). One reader thread per worker delivers the events to the
streams' mailboxes, and handles the worker's death.
"""

from __future__ import annotations

import queue
import random
import time
from collections.abc import Callable, Generator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Self

from spillover.models.at_path import model_name
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.checked import checked, expect
from spillover.runtime.conversions.choice import EngineChoice, choose_engine
from spillover.runtime.embedding_request import EmbeddingRequest
from spillover.runtime.engine import ConversationPrompt, EngineStatus, ModelCard
from spillover.runtime.errors import SpilloverError
from spillover.runtime.events import EngineEvent, Finished
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest
from spillover.runtime.worker.protocol import AskBytes, AskPrompt, AskTokens, Bytes, Prompt, Tokens
from spillover.runtime.worker.supervision.supervisor import Supervisor
from spillover.runtime.worker.supervision.ticket import Ticket

CANCEL_PATIENCE_S = 0.5
"""A cancelled request that its worker has not ended within this time ends without it: a step may be
long, and the worker may hang."""


class LocalEngine:
    """Streams answers of a GGUF or ONNX model, which runs in its own process.

    The constructor returns at once; wait_ready() and the first request wait for the model.
    Any thread may use it. Use as a context manager, or call close().
    """

    def __init__(
        self,
        model: str | Path,
        options: EngineOptions | None = None,
        *,
        name: str | None = None,
        most_bytes: int | None = None,
    ) -> None:
        """*most_bytes*: memory that the model may take; None: what the device has free. Raises
        InvalidRequest for an option that is not allowed."""
        options = checked(expect(options or EngineOptions(), EngineOptions, "options"))
        path = Path(model).expanduser().absolute()
        self._name = name or model_name(path)
        self._options = options.settled()
        self._choice = choose_engine(path, self._options, most_bytes)
        self._supervisor = Supervisor(path, self._name, self._options, self._choice, most_bytes)
        self._dispatcher = self._supervisor.dispatcher

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        return self._name

    @property
    def card(self) -> ModelCard:
        """Facts about the loaded model. Raises EngineError while it is loading."""
        return self._supervisor.card

    @property
    def choice(self) -> EngineChoice:
        """Which engine serves the model, and why."""
        return self._choice

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker; None when none is running."""
        return self._supervisor.worker_pid

    def wait_ready(self, timeout_s: float | None = None) -> ModelCard:
        """Wait until the model is loaded. Raises ModelError when it cannot be, EngineError when it
        takes longer than *timeout_s* (default: the load_timeout_s of the options)."""
        if timeout_s is None:
            timeout_s = self._options.load_timeout_s
        return self._supervisor.wait_ready(timeout_s)

    def watch_deaths(self, callback: Callable[[], None]) -> None:
        """Call *callback* whenever the worker has died; running streams continue in the next one,
        if they can. It must be quick. There is one callback: the last one set."""
        self._supervisor.watch_deaths(callback)

    def watch_progress(self, callback: Callable[[float], None]) -> None:
        """Call *callback* with the share of the weights that was read, from 0 to 1, as far as the
        library tells it. It must be quick. There is one callback: the last one set."""
        self._supervisor.watch_progress(callback)

    def watch_shortages(self, callback: Callable[[int], None]) -> None:
        """Call *callback* with the bytes that the worker lacks, in place of telling it at once that
        nobody has any; answer_shortage() must follow. It must be quick."""
        self._supervisor.watch_shortages(callback)

    def answer_shortage(self) -> None:
        """What others could give back is free now."""
        self._supervisor.answer_shortage()

    def give_back(self, n_bytes: int) -> None:
        """Let the worker drop so much of what it can make again."""
        self._supervisor.give_back(n_bytes)

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        """Yield the events of one answer; see Engine.stream.

        When the worker dies, a new one continues from the last token: the stream only pauses.
        After a cancellation it ends within CANCEL_PATIENCE_S, whatever the worker does.
        Raises ImagesRefused for a conversation with images.
        """
        request = expect(request, GenerationRequest, "request").checked()
        request.refuse_images(self.name)
        ticket = self._dispatcher.submit(request, _seed_of(request))
        yield from self._answer(ticket, cancellation)

    def embed(
        self, request: EmbeddingRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        """Yield an Embedded event for each input, in any order, then Finished; otherwise as
        stream()."""
        request = expect(request, EmbeddingRequest, "request").checked()
        yield from self._answer(self._dispatcher.submit(request), cancellation)

    def _answer(self, ticket: Ticket, cancellation: Cancellation | None) -> Generator[EngineEvent]:
        cancellation = cancellation or Cancellation()
        try:
            with cancellation.subscribed(partial(self._dispatcher.cancel, ticket)):
                yield from self._follow(ticket)
        finally:
            self._dispatcher.forget(ticket)

    def _follow(self, ticket: Ticket) -> Generator[EngineEvent]:
        cancelled_at: float | None = None
        n_open = ticket.request.n
        while n_open:
            timeout_s = None
            if ticket.cancelled:
                cancelled_at = cancelled_at or time.monotonic()
                timeout_s = max(cancelled_at + CANCEL_PATIENCE_S - time.monotonic(), 0.01)
            try:
                mail = ticket.mailbox.get(timeout=timeout_s)
            except queue.Empty:
                self._dispatcher.abandon(ticket)
                continue
            if isinstance(mail, SpilloverError):
                raise mail
            for event in mail:
                n_open -= isinstance(event, Finished)
                yield event

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> tuple[int, ...]:
        """Token ids of *text*. *add_special* adds BOS where the model wants it; *parse_special*
        reads control tokens written out in the text."""
        answer = self._dispatcher.ask(
            lambda i: AskTokens(
                id=i, text=text, add_special=add_special, parse_special=parse_special
            )
        )
        assert isinstance(answer, Tokens)
        return answer.token_ids

    def detokenize(self, token_ids: tuple[int, ...]) -> bytes:
        """The bytes of *token_ids*. Raises InvalidRequest for one outside the vocabulary."""
        answer = self._dispatcher.ask(lambda i: AskBytes(id=i, token_ids=token_ids))
        assert isinstance(answer, Bytes)
        return answer.content

    def pieces(self, token_ids: tuple[int, ...]) -> tuple[bytes, ...]:
        """The bytes of each of *token_ids*, by one question to the worker. Raises as detokenize
        does."""
        answer = self._dispatcher.ask(lambda i: AskBytes(id=i, token_ids=token_ids, each=True))
        assert isinstance(answer, Bytes)
        places = zip(answer.n_bytes, accumulate(answer.n_bytes), strict=True)
        return tuple(answer.content[end - n : end] for n, end in places)

    def health(self) -> EngineStatus:
        """What is known without asking the worker: no slots and counts."""
        return self._supervisor.health()

    def apply_template(self, request: GenerationRequest) -> ConversationPrompt:
        """The prompt of a conversation as the model reads it, without its images; InvalidRequest as
        stream()."""
        checked = request.without_images().checked()
        answer = self._dispatcher.ask(lambda i: AskPrompt(id=i, request=checked))
        assert isinstance(answer, Prompt)
        return ConversationPrompt(text=answer.text, n_tokens=answer.n_tokens)

    def status(self) -> EngineStatus:
        """A snapshot; never waits for a decode."""
        return self._supervisor.status()

    def close(self) -> None:
        """End the worker and every stream. May be called again."""
        self._supervisor.close()


def _seed_of(request: GenerationRequest) -> int:
    seed = request.sampling.seed
    return random.getrandbits(63) if seed is None else seed
