"""Answers by way of the router, with handoffs and consent questions shown at the terminal."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager

from spillover.cloud_fallback.events import (
    ConsentAnswered,
    ConsentAsked,
    Handoff,
    ProviderFailed,
    StreamEvent,
)
from spillover.cloud_fallback.policy.reason import in_words
from spillover.cloud_fallback.privacy.consent import ConsentScope
from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.router import Router
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.commands.loading import default_cloud, loaded_engine
from spillover.edge_server.commands.output import print_note, remarks_to_stderr
from spillover.edge_server.commands.terminal.keyboard import question_at_terminal
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.wire.handoff import IMAGES_LEAVE
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.engine import ModelCard
from spillover.runtime.errors import SpilloverError
from spillover.runtime.events import WriterId
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import GenerationRequest


class RoutedEngine:
    """Streams answers as an engine does."""

    def __init__(self, engine: LocalEngine, router: Router) -> None:
        self._engine = engine
        self._router = router
        self._answer_id = ""
        self._wants_cloud = False
        """The user has asked for the cloud here, which is a yes."""
        self.next_routing = Routing()
        """What the user wants of the next answer."""
        self.notes = remarks_to_stderr()
        """Where handoffs are shown, beside the text."""

    @property
    def card(self) -> ModelCard:
        return self._engine.card

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[StreamEvent]:
        """Router.stream; asks the user for consent, and shows handoffs beside the text."""
        self._wants_cloud = self.next_routing.prefer == "cloud"
        options = RouteOptions(
            routing=self.next_routing, can_answer=has_terminal() or self._wants_cloud
        )
        self.next_routing, self._answer_id = Routing(), options.id
        with closing(self._router.stream(request, options, cancellation)) as events:
            for event in self._while_asking(events):
                self._note(event)
                yield event

    def _while_asking(self, events: Generator[StreamEvent]) -> Generator[StreamEvent]:
        """*events*, held back while a question stands where the text would be."""
        question: TerminalQuestion | None = None
        held: list[StreamEvent] = []
        try:
            for event in events:
                if isinstance(event, ConsentAsked):
                    yield event
                    wanted = event.reason == "user" and self._wants_cloud
                    if wanted or not has_terminal():
                        self._router.consent(event.id, wanted)
                    else:
                        question = TerminalQuestion(event, self._router)
                    continue
                if question is not None and not isinstance(event, ConsentAnswered):
                    held.append(event)
                    continue
                if question is not None:
                    question.close()
                    question = None
                yield event
                yield from held
                held = []
        except SpilloverError:
            yield from held
            raise
        else:
            yield from held
        finally:
            if question is not None:
                question.close()

    def _note(self, event: StreamEvent) -> None:
        if isinstance(event, Handoff):
            self.notes.write(f" [{in_words(event.reason)} → {name_of(event.target)}] ")
        elif isinstance(event, ProviderFailed):
            self.notes.write(f" [{failure_of(event)}] ")

    def cloud_problem(self) -> str | None:
        """See Router."""
        return self._router.cloud_problem()

    def hand_over(self) -> str | None:
        """Let the cloud continue the running answer; if nobody can take over: why."""
        self._wants_cloud = True
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
        Router.open(engine, default_cloud(settings), os.environ) as router,
    ):
        note_broken_fallback(router)
        yield RoutedEngine(engine, router)


def note_broken_fallback(router: Router) -> None:
    """Say so where providers may take over and none could."""
    if (problem := router.broken_fallback()) is not None:
        print_note(f"spillover: warning: no provider can take over: {problem}")


class TerminalQuestion:
    """Asks whether the answer may leave the device, in a thread of its own, while the answer goes
    on. Close it once the question is decided."""

    def __init__(self, asked: ConsentAsked, router: Router) -> None:
        self._asked = asked
        self._router = router
        self._end, self._ends = os.pipe()
        self._thread = threading.Thread(target=self._ask, name="question", daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        with question_at_terminal():
            print_note(question_of(self._asked))
            print_note(_CHOICES)
            print_note("[y/N] ", ends_line=False)
            if not _is_typed(self._end):
                print_note("\nno reply: the answer stays on this device")
                return
            granted, scope = reply_in(sys.stdin.readline())
        self._router.consent(self._asked.id, granted, scope=scope)

    def close(self) -> None:
        os.close(self._ends)
        self._thread.join()
        os.close(self._end)


_CHOICES = "y: yes, c: yes for this chat, a: always, n: no, v: never"


def reply_in(line: str) -> tuple[bool, ConsentScope]:
    """What somebody typed: whether the answer may leave, and for what that holds."""
    match line.strip().lower():
        case "y" | "yes" | "/cloud":
            return True, "once"
        case "c" | "chat":
            return True, "chat"
        case "a" | "always":
            return True, "always"
        case "v" | "never":
            return False, "always"
    return False, "once"


def has_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _is_typed(end: int) -> bool:
    """Whether a line or the end of the input arrives before *end* is closed."""
    try:
        ready, _, _ = select.select([sys.stdin, end], [], [])
    except (OSError, ValueError):  # this system cannot wait for a terminal
        return True
    return end not in ready


def question_of(asked: ConsentAsked) -> str:
    """The question for the user."""
    plural = "" if asked.n_messages == 1 else "s"
    images = f" {_sentence(IMAGES_LEAVE)}" if asked.n_images else ""
    texts = "text" if asked.redactions == 1 else "texts"
    redacted = f", with {asked.redactions} private {texts} removed" if asked.redactions else ""
    return (
        f"\n{_sentence(in_words(asked.reason))}\n"
        f"May {name_of(asked.target)} continue? It would receive "
        f"{asked.n_messages} message{plural}{redacted}, and what is written until you reply."
        f"{images}"
    )


def failure_of(event: ProviderFailed) -> str:
    """Which provider failed, where it is, and why."""
    return f"{name_of(event.provider)} at {event.address}: {event.message}"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def name_of(writer: WriterId) -> str:
    """The provider and its model ("claude/claude-sonnet-5"), or the local model."""
    return f"{writer.provider}/{writer.model}" if writer.provider else writer.model
