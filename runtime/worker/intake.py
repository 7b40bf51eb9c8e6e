"""The worker's intake: from a command to a job of the scheduler, or to an answer at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from typing import TypeVar

import numpy as np
from msgspec import structs

from spillover.runtime.backend import Tokens
from spillover.runtime.chat.chat_template import RenderedPrompt
from spillover.runtime.chat.pipeline import TextPipeline
from spillover.runtime.errors import (
    ContextOverflow,
    EngineBusy,
    InvalidRequest,
)
from spillover.runtime.events import EngineEvent, cancelled
from spillover.runtime.request import GenerationRequest
from spillover.runtime.scheduling.scheduler import Scheduler
from spillover.runtime.scheduling.sequence import Job
from spillover.runtime.text.reasoning import starts_inside
from spillover.runtime.text.template_tags import ANSWER_OPENINGS
from spillover.runtime.tools.plan import ToolPlan, plan_tools
from spillover.runtime.worker import protocol
from spillover.runtime.worker.constraint_compiler import Begun, ConstraintCompiler
from spillover.runtime.worker.embedding_intake import EmbeddingReader
from spillover.runtime.worker.loading import LoadedModel
from spillover.runtime.worker.long_texts import Command as LongCommand
from spillover.runtime.worker.long_texts import LongTexts, is_long
from spillover.runtime.worker.preamble import PreambleFinder
from spillover.runtime.worker.rejection import rejected

EFFORT_TOKENS = {"low": 1024, "medium": 8192}
"""Most tokens of reasoning for an effort that a model's template knows nothing of."""

C = TypeVar("C", bound=protocol.Command)


def within_effort(request: GenerationRequest, template_source: str) -> GenerationRequest:
    """*request* with the thinking budget of its effort, unless it has one, or its template reads
    the effort itself."""
    effort = request.template_kwargs.get("reasoning_effort")
    budget = EFFORT_TOKENS.get(effort) if isinstance(effort, str) else None
    is_given = request.thinking_budget is not None or budget is None
    if is_given or "reasoning_effort" in template_source:
        return request
    return structs.replace(request, thinking_budget=budget)


class Intake:
    """Takes commands in the order in which they come, but lets others pass those with long texts;
    never waits for the model."""

    def __init__(
        self,
        model: LoadedModel,
        scheduler: Scheduler,
        send: Callable[[protocol.Report], None],
        compiler: ConstraintCompiler,
    ) -> None:
        self._compiler = compiler
        self._model = model
        self._backend = model.backend
        self._scheduler = scheduler
        self._send = send
        self._preambles = PreambleFinder(model.template, self._tokenize_rendered)
        self._embeddings = EmbeddingReader(model.embedder, model.card.name)
        self._long_texts = LongTexts(lambda command: self._answer(command, self._serve_long))

    def take(self, command: protocol.Command) -> None:
        """Serve a command; one that cannot be served as asked is answered with Rejected."""
        match command:
            case protocol.Cancel():
                self._cancel(command.id)
            case protocol.SavePower():
                self._scheduler.save_power(is_on=command.is_on)
            case protocol.GiveBack():
                self._scheduler.give_back(command.n_bytes)
            case protocol.MemoryAnswer():
                self._scheduler.note_memory_answer()
            case _ if isinstance(command, LongCommand) and self._takes_long(command):
                self._answer(command, self._long_texts.add)
            case _:
                self._answer(command, self._serve)

    def _takes_long(self, command: LongCommand) -> bool:
        if isinstance(command, protocol.Submit | protocol.AskPrompt) and command.request.messages:
            return self._model.template.is_slow or is_long(command)
        return is_long(command)

    def _answer(self, command: C, serve: Callable[[C], None]) -> None:
        try:
            serve(command)
            return
        except (InvalidRequest, EngineBusy) as error:
            reason: InvalidRequest | EngineBusy = error
        except RecursionError:  # in a variable of the template's, or arguments of a call
            reason = InvalidRequest("the request is nested too deeply")
        assert not isinstance(command, protocol.WithoutId)
        self._send(rejected(command.id, reason))

    def _serve(self, command: protocol.Command) -> None:
        match command:
            case protocol.Submit():
                self._read(command)()
            case protocol.Embed():
                self._embed(command)()
            case protocol.AskTokens():
                self._send(self._tokens(command))
            case protocol.AskBytes():
                self._send(self._bytes(command))
            case protocol.AskPrompt():
                self._send(self._rendered(command))
            case protocol.AskStatus():
                self._send(self._status(command.id))

    def _serve_long(self, command: LongCommand) -> None:
        """In the thread of the long texts."""
        if isinstance(command, protocol.Submit):
            self._long_texts.finish(command.id, self._read(command))
        elif isinstance(command, protocol.Embed):
            self._long_texts.finish(command.id, self._embed(command))
        else:
            self._serve(command)

    def _cancel(self, command_id: int) -> None:
        waiting = self._long_texts.take_back(command_id)
        if isinstance(waiting, protocol.Submit | protocol.Embed):
            self._send(protocol.Events(events=list(_ends_of(waiting))))
            return
        self._compiler.cancel(command_id)
        self._scheduler.cancel(command_id)

    def _read(self, command: protocol.Submit) -> Callable[[], None]:
        """Check and tokenize a request; what is returned begins it."""
        request = within_effort(command.request, self._model.template.source)
        plan, rendered = self._planned(request)
        text = "" if rendered is None else rendered.text
        prompt = self._prompt(request, text)
        n_ctx = self._model.card.n_ctx
        if len(prompt) >= n_ctx:
            param = "messages" if request.messages else "prompt"
            raise ContextOverflow(len(prompt), n_ctx, self._model.card.name, param)
        self._check_bias(request)
        pipelines = tuple(self._pipeline(request, text, plan) for _ in range(request.n))
        shown = self._shown(request, plan)
        for pipeline, tokens in zip(pipelines, command.resumed, strict=False):
            for token in tokens or ():
                pipeline.feed(self._backend.token_bytes(token) or shown.get(token, b""))
        job = Job(
            id=command.id,
            request=request,
            prompt=prompt,
            seed=command.seed,
            pipelines=pipelines,
            resumed=command.resumed,
            shown=shown,
            n_preamble=self._preambles.length(request, plan.tools if plan else (), prompt),
        )
        is_free = request.response_format is None and request.thinking_budget is None
        if is_free and (plan is None or not plan.is_constrained):
            return lambda: self._schedule(job)
        return lambda: self._compiler.compile(
            job, text, plan, self._schedule_compiled, self._reject
        )

    def _embed(self, command: protocol.Embed) -> Callable[[], None]:
        """The same for texts that become vectors."""
        job = self._embeddings.read(command)
        return lambda: self._scheduler.submit_embedding(job, unlimited=command.accepted)

    def _schedule(self, job: Job) -> None:
        self._scheduler.submit(job, unlimited=bool(job.resumed))

    def _schedule_compiled(self, job: Job, is_cancelled: bool) -> None:
        """In the compiler's thread."""
        self._schedule(job)
        if is_cancelled:
            self._scheduler.cancel(job.id)

    def _reject(self, job_id: int, error: InvalidRequest | EngineBusy) -> None:
        self._send(rejected(job_id, error))

    def _shown(self, request: GenerationRequest, plan: ToolPlan | None) -> dict[int, bytes]:
        """The control tokens that mark reasoning and tool calls, which otherwise add nothing to
        the text."""
        markers = plan.format.markers if plan else ()
        pairs = self._model.template.tag_pairs if request.messages else ()
        if pairs and request.split_reasoning:
            markers += (*itertools.chain(*pairs), *ANSWER_OPENINGS)
        shown = {}
        for marker in markers:
            tokens = self._backend.tokenize(marker, add_special=False, parse_special=True)
            for token in tokens.tolist():
                if not self._backend.token_bytes(token):
                    shown[token] = self._backend.control_text(token).encode()
        return shown

    def _planned(self, request: GenerationRequest) -> tuple[ToolPlan | None, RenderedPrompt | None]:
        """How tools may be called, and the prompt that says so."""
        plan = plan_tools(request, self._model.template.tool_format)
        rendered = self._render(request, plan)
        if plan is not None and rendered is not None:
            plan = plan_tools(request, rendered.tool_format)
        return plan, rendered

    def _render(self, request: GenerationRequest, plan: ToolPlan | None) -> RenderedPrompt | None:
        """What the chat template makes of the request's messages, if it has any."""
        if not request.messages:
            return None
        return self._model.template.prompt(
            request.messages,
            continue_final_message=request.continue_final_message,
            add_generation_prompt=request.add_generation_prompt,
            template_kwargs=request.template_kwargs,
            tools=plan.tools if plan else (),
        )

    def _prompt(self, request: GenerationRequest, rendered: str) -> Tokens:
        """The prompt's token ids."""
        if request.messages:
            tokens = self._tokenize_rendered(rendered)
        elif isinstance(request.prompt, str):
            tokens = self._backend.tokenize(request.prompt, add_special=True, parse_special=True)
        else:
            tokens = self._checked_ids(request.prompt or (), "prompt")
        if len(tokens) == 0:
            raise InvalidRequest("the prompt is empty: give at least one token", "prompt")
        return tokens

    def _tokenize_rendered(self, text: str) -> Tokens:
        add_special = not text.startswith(self._backend.info.bos_text or "\0")
        return self._backend.tokenize(text, add_special=add_special, parse_special=True)

    def _checked_ids(self, token_ids: tuple[int, ...], param: str) -> Tokens:
        n_vocab = self._backend.info.n_vocab
        for index, token in enumerate(token_ids):
            if not 0 <= token < n_vocab:
                raise InvalidRequest(
                    f"token id {token} is not in the vocabulary of {n_vocab} tokens",
                    f"{param}[{index}]",
                )
        return np.array(token_ids, dtype=np.int32)

    def _check_bias(self, request: GenerationRequest) -> None:
        for token in request.sampling.logit_bias:
            if token >= self._backend.info.n_vocab:
                raise InvalidRequest(
                    f"logit_bias names token id {token}, but the vocabulary has "
                    f"{self._backend.info.n_vocab} tokens",
                    "logit_bias",
                )

    def _pipeline(
        self, request: GenerationRequest, rendered: str, plan: ToolPlan | None
    ) -> TextPipeline:
        splits = bool(request.messages) and request.split_reasoning
        opened = starts_inside(rendered) if splits else None
        return TextPipeline(
            request.stop,
            split_reasoning=splits,
            inside=opened or Begun.of(request).thinking,
            has_begun=opened is None,
            tools=plan.parser() if plan else None,
        )

    def _tokens(self, command: protocol.AskTokens) -> protocol.Tokens:
        tokens = self._backend.tokenize(
            command.text, add_special=command.add_special, parse_special=command.parse_special
        )
        return protocol.Tokens(id=command.id, token_ids=tuple(tokens.tolist()))

    def _rendered(self, command: protocol.AskPrompt) -> protocol.Prompt:
        _, rendered = self._planned(command.request)
        assert rendered is not None, "only a conversation has a template"
        n_tokens = len(self._prompt(command.request, rendered.text))
        return protocol.Prompt(id=command.id, text=rendered.text, n_tokens=n_tokens)

    def _bytes(self, command: protocol.AskBytes) -> protocol.Bytes:
        ids = self._checked_ids(command.token_ids, "tokens").tolist()
        return protocol.Bytes.of(command, [*map(self._backend.token_bytes, ids)])

    def _status(self, ask_id: int) -> protocol.Status:
        scheduler = self._scheduler
        return protocol.Status(
            id=ask_id,
            slots=scheduler.slots(),
            n_queued=scheduler.n_queued,
            n_background=scheduler.n_background,
            n_kv_used=scheduler.n_kv_used,
            n_steps=scheduler.n_steps,
            prefixes=scheduler.prefixes,
        )


def _ends_of(command: protocol.Submit | protocol.Embed) -> Generator[tuple[int, EngineEvent]]:
    """What ends a request that was cancelled before it was begun here."""
    resumed = command.resumed if isinstance(command, protocol.Submit) else None
    for choice, tokens in enumerate(resumed or ((),) * command.request.n):
        if tokens is not None:
            yield command.id, cancelled(choice, len(tokens))
