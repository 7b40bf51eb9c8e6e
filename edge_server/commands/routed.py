"""Answers of one conversation by way of the router, with what happens between two writers shown
beside the text."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager

from spillover.cloud_fallback.events import ConsentAsked, Handoff, StreamEvent
from spillover.cloud_fallback.route.router import Router
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.commands.answer_output import AnswerOutput
from spillover.edge_server.commands.loading import one_conversation
from spillover.edge_server.commands.talk import tell
from spillover.edge_server.config.settings import Settings
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.engine import ModelCard
from spillover.runtime.events import WriterId
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import GenerationRequest

AskUser = Callable[[ConsentAsked], bool]


class RoutedEngine:
    """Looks like an engine to the commands."""

    def __init__(self, engine: LocalEngine, router: Router, ask_user: AskUser) -> None:
        self._engine = engine
        self._router = router
        self._ask_user = ask_user
        self._notes = AnswerOutput(sys.stderr, dim=True)

    @property
    def card(self) -> ModelCard:
        return self._engine.card

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[StreamEvent]:
        """See Router.stream; questions are put to the user, handoffs shown."""
        with closing(self._router.stream(request, RouteOptions(), cancellation)) as events:
            for event in events:
                if isinstance(event, ConsentAsked):
                    self._router.consent(event.id, self._ask_user(event))
                elif isinstance(event, Handoff):
                    self._notes.write(f" [{event.reason}: → {name_of(event.target)}] ")
                yield event


@contextmanager
def routed_conversation(
    settings: Settings, ask_user: AskUser | None = None
) -> Generator[RoutedEngine]:
    """A loaded engine behind the router. Raises ModelError, EngineError."""
    with one_conversation(settings) as engine:
        from spillover.edge_server.config.routing_setup import build_router  # slow

        with closing(build_router(engine, settings, os.environ)) as router:
            yield RoutedEngine(engine, router, ask_user or ask_at_terminal)


def ask_at_terminal(asked: ConsentAsked) -> bool:
    """Ask whether the answer may leave the device; without a terminal it may not."""
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()):
        tell(
            f"spillover: {asked.reason}: the answer stays here, since nobody can be asked; "
            "--fallback auto would let it go on in the cloud"
        )
        return False
    tell(question_of(asked))
    print("[y/N] ", end="", file=sys.stderr, flush=True)
    if not _is_typed_within(asked.timeout_s):
        tell("\nno reply: the answer stays here")
        return False
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _is_typed_within(seconds: float) -> bool:
    """Whether a line, or the end of the input, comes in time."""
    try:
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
    except (OSError, ValueError):  # not every system can wait for a terminal
        return True
    return bool(ready)


def question_of(asked: ConsentAsked) -> str:
    """What the user is asked."""
    redacted = f", {asked.redactions} private texts taken out" if asked.redactions else ""
    return (
        f"\n{asked.reason}: may {name_of(asked.target)} go on? It would get "
        f"{asked.n_messages} messages{redacted}."
    )


def name_of(writer: WriterId) -> str:
    """ "claude/claude-sonnet-5", or the local model's name."""
    return f"{writer.provider}/{writer.model}" if writer.provider else writer.model
