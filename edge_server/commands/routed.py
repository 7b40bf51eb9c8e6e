"""Answers by way of the router, with handoffs and consent questions shown at the terminal."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager

from spillover.cloud_fallback.events import ConsentAsked, Handoff, ProviderFailed, StreamEvent
from spillover.cloud_fallback.policy.reason import in_words
from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.router import Router
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.commands.keyboard import question_at_terminal
from spillover.edge_server.commands.loading import loaded_engine
from spillover.edge_server.commands.output import AnswerOutput, print_note
from spillover.edge_server.config.settings import Settings
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.engine import ModelCard
from spillover.runtime.events import WriterId
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import GenerationRequest


class RoutedEngine:
    """Streams answers as an engine does."""

    def __init__(self, engine: LocalEngine, router: Router) -> None:
        self._engine = engine
        self._router = router
        self._answer_id = ""
        self.next_routing = Routing()
        """What the user wants of the next answer."""
        self._notes = AnswerOutput(sys.stderr, dim=True)

    @property
    def card(self) -> ModelCard:
        return self._engine.card

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[StreamEvent]:
        """Router.stream; asks the user for consent, and shows handoffs beside the text."""
        options = RouteOptions(routing=self.next_routing)
        self.next_routing, self._answer_id = Routing(), options.id
        with closing(self._router.stream(request, options, cancellation)) as events:
            for event in events:
                if isinstance(event, ConsentAsked):
                    self._router.consent(event.id, ask_at_terminal(event))
                elif isinstance(event, Handoff):
                    self._notes.write(f" [{in_words(event.reason)} → {name_of(event.target)}] ")
                elif isinstance(event, ProviderFailed):
                    self._notes.write(f" [{failure_of(event)}] ")
                yield event

    def cloud_problem(self) -> str | None:
        """See Router."""
        return self._router.cloud_problem()

    def hand_over(self) -> str | None:
        """Let the cloud continue the running answer; if nobody can take over: why."""
        if self._router.hand_over(self._answer_id):
            return None
        return self._router.handoff_problem(self._answer_id) or "the answer is about to end"

    def keep_local(self) -> None:
        """Keep the running answer on this device from now on."""
        self._router.keep_local(self._answer_id)


@contextmanager
def routed_conversation(settings: Settings) -> Generator[RoutedEngine]:
    """A loaded engine behind the router. Raises ModelError, EngineError."""
    with (
        loaded_engine(settings) as engine,
        Router.open(engine, settings.cloud, os.environ) as router,
    ):
        yield RoutedEngine(engine, router)


def ask_at_terminal(asked: ConsentAsked) -> bool:
    """Ask whether the answer may leave the device. Without a terminal the answer is no."""
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()):
        print_note(
            f"spillover: {in_words(asked.reason)}, but the answer stays on this device, because "
            "there is no terminal to ask at; --fallback auto lets the cloud take over unasked"
        )
        return False
    with question_at_terminal():
        print_note(question_of(asked))
        print_note("[y/N] ", ends_line=False)
        if not _is_typed_within(asked.timeout_s):
            print_note("\nno reply: the answer stays on this device")
            return False
        return sys.stdin.readline().strip().lower() in ("y", "yes")


def _is_typed_within(seconds: float) -> bool:
    """Whether a line or the end of the input arrives in time."""
    try:
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
    except (OSError, ValueError):  # this system cannot wait for a terminal
        return True
    return bool(ready)


def question_of(asked: ConsentAsked) -> str:
    """The question for the user."""
    plural = "" if asked.n_messages == 1 else "s"
    redacted = f", with {asked.redactions} private texts removed" if asked.redactions else ""
    return (
        f"\n{_sentence(in_words(asked.reason))}\n"
        f"May {name_of(asked.target)} continue? It would receive "
        f"{asked.n_messages} message{plural}{redacted}."
    )


def failure_of(event: ProviderFailed) -> str:
    """Which provider failed, where it is, and why."""
    return f"{name_of(event.provider)} at {event.address}: {event.message}"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def name_of(writer: WriterId) -> str:
    """The provider and its model ("claude/claude-sonnet-5"), or the local model."""
    return f"{writer.provider}/{writer.model}" if writer.provider else writer.model
