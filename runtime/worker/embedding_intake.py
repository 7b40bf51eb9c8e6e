"""From a request for vectors or scores to a job; the intake of a model that makes only these."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spillover.runtime.backend import Tokens
from spillover.runtime.embedding.embedder import Embedder, TokenizedInput
from spillover.runtime.embedding.job import EmbeddingJob
from spillover.runtime.embedding_request import MAX_INPUT_TOKENS, EmbeddingRequest
from spillover.runtime.errors import EngineBusy, InputTooLong, InvalidRequest
from spillover.runtime.events import cancelled
from spillover.runtime.scheduling.embedding.loop import EmbeddingLoop
from spillover.runtime.worker import protocol
from spillover.runtime.worker.loading import LoadedEmbedder
from spillover.runtime.worker.long_texts import LongTexts, is_long
from spillover.runtime.worker.rejection import rejected


class EmbeddingReader:
    """Checks and tokenizes. Any thread may use it. *embedder* None: the model *name* has none."""

    def __init__(self, embedder: Embedder | None, name: str) -> None:
        self._embedder = embedder
        self._name = name

    def read(self, command: protocol.Embed) -> EmbeddingJob:
        """The job of *command*. Raises InvalidRequest."""
        request = command.request
        embedder = self._fitting(request)
        inputs: dict[int, TokenizedInput] = {}
        n_left = MAX_INPUT_TOKENS
        for index in sorted(set(range(len(request.inputs))) - set(command.done)):
            given = self._tokenized(embedder, request, index)
            n_left -= len(given.tokens)
            if n_left < 0:
                message = f"{request.field} has more than {MAX_INPUT_TOKENS} tokens: send less"
                raise InvalidRequest(message, request.field)
            inputs[index] = given
        return EmbeddingJob(id=command.id, inputs=inputs)

    def _fitting(self, request: EmbeddingRequest) -> Embedder:
        name = self._name
        if self._embedder is None:
            raise InvalidRequest(
                f"{name} gives no embeddings, because its graph has no output for them: serve an "
                "embedding model, or a GGUF file with engine = llama",
                "model",
            )
        ranks = self._embedder.card.pooling == "rank"
        if ranks and request.query is None:
            raise InvalidRequest(
                f"{name} ranks documents and gives no embeddings: send a query and documents to "
                "/v1/rerank, or serve an embedding model",
                "model",
            )
        if request.query is not None and not ranks:
            raise InvalidRequest(
                f"{name} does not rank documents: serve a reranking model (a GGUF file whose "
                "pooling type is rank, or a cross-encoder in ONNX)",
                "model",
            )
        return self._embedder

    def _tokenized(
        self, embedder: Embedder, request: EmbeddingRequest, index: int
    ) -> TokenizedInput:
        text, place = request.inputs[index], request.place(index)
        try:
            if not isinstance(text, str):
                found = TokenizedInput(self._ids(embedder, text, request, place))
            elif request.query is None:
                found = embedder.tokenize(text, truncate=request.truncate)
            else:
                found = embedder.tokenize_pair(request.query, text, truncate=request.truncate)
        except InvalidRequest as error:
            raise InvalidRequest(str(error), error.param or place) from error
        n_tokens = len(found.tokens)
        if n_tokens == 0:
            raise InvalidRequest(f"{place} is empty: give at least one token", place)
        if n_tokens > embedder.card.n_ctx:
            raise InputTooLong(n_tokens, embedder.card.n_ctx, self._name, place)
        return found

    def _ids(
        self, embedder: Embedder, ids: tuple[int, ...], request: EmbeddingRequest, place: str
    ) -> Tokens:
        if request.query is not None:
            raise InvalidRequest(f"{place} must be a text", place)
        wrong = next((token for token in ids if token >= embedder.n_vocab), None)
        if wrong is not None:
            raise InvalidRequest(
                f"{place}: token id {wrong} is not in the vocabulary of {embedder.n_vocab} tokens",
                place,
            )
        n_most = embedder.card.n_ctx if request.truncate else None
        return np.array(ids[:n_most], dtype=np.int32)


class EmbeddingIntake:
    """Takes the commands for a model that makes vectors or scores and nothing else."""

    def __init__(
        self,
        model: LoadedEmbedder,
        loop: EmbeddingLoop,
        send: Callable[[protocol.Report], None],
    ) -> None:
        self._model = model
        self._loop = loop
        self._send = send
        self._reader = EmbeddingReader(model.embedder, model.card.name)
        self._long_texts = LongTexts(lambda command: self._answer(command, self._serve_long))

    def take(self, command: protocol.Command) -> None:
        """Serve a command; one that cannot be served as asked is answered with Rejected."""
        if isinstance(command, protocol.Embed | protocol.AskTokens) and is_long(command):
            self._answer(command, lambda _: self._long_texts.add(command))
        else:
            self._answer(command, self._serve)

    def _answer(self, command: protocol.Command, serve: Callable[[protocol.Command], None]) -> None:
        try:
            serve(command)
        except (InvalidRequest, EngineBusy) as error:
            assert not isinstance(command, protocol.WithoutId)
            self._send(rejected(command.id, error))

    def _serve_long(self, command: protocol.Command) -> None:
        """In the thread of the long texts."""
        if isinstance(command, protocol.Embed):
            job = self._reader.read(command)
            self._long_texts.finish(command.id, lambda: self._submit(command, job))
        else:
            self._serve(command)

    def _serve(self, command: protocol.Command) -> None:
        vocabulary = self._model.vocabulary
        match command:
            case protocol.Embed():
                self._submit(command, self._reader.read(command))
            case protocol.Cancel():
                self._cancel(command.id)
            case protocol.AskTokens(id=i, text=text):
                tokens = vocabulary.tokenize(
                    text, add_special=command.add_special, parse_special=command.parse_special
                )
                self._send(protocol.Tokens(id=i, token_ids=tuple(tokens.tolist())))
            case protocol.AskBytes(token_ids=ids):
                n_vocab = self._model.embedder.n_vocab
                if any(token >= n_vocab for token in ids):
                    raise InvalidRequest(f"the vocabulary has {n_vocab} tokens", "tokens")
                self._send(protocol.Bytes.of(command, [*map(vocabulary.token_bytes, ids)]))
            case protocol.Submit() | protocol.AskPrompt():
                raise InvalidRequest(self._refusal(), "model")
            case protocol.AskStatus(id=i):
                self._send(self._status(i))

    def _submit(self, command: protocol.Embed, job: EmbeddingJob) -> None:
        self._loop.submit_embedding(job, unlimited=command.accepted)

    def _cancel(self, command_id: int) -> None:
        waiting = self._long_texts.take_back(command_id)
        if isinstance(waiting, protocol.Embed):
            self._send(protocol.Events(events=[(command_id, cancelled())]))
        else:
            self._loop.cancel(command_id)

    def _refusal(self) -> str:
        name = self._model.card.name
        if self._model.embedder.card.pooling == "rank":
            return f"{name} ranks documents and writes no answers: send it /v1/rerank"
        return f"{name} gives embeddings and writes no answers: send it /v1/embeddings"

    def _status(self, ask_id: int) -> protocol.Status:
        loop = self._loop
        return protocol.Status(
            id=ask_id,
            slots=loop.slots(),
            n_queued=loop.n_queued,
            n_kv_used=loop.n_kv_used,
            n_steps=loop.n_steps,
        )
