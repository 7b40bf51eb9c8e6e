"""spillover demo: one answer that changes its writer twice, without leaving this device."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import click

from spillover.cloud_fallback.events import Handoff, ProviderFailed, Seam, StreamEvent
from spillover.cloud_fallback.policy.reason import in_words
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.cloud_fallback.route.local_writer import UNWATCHED
from spillover.cloud_fallback.route.router import Router
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.commands.launch.own_server import own_server
from spillover.edge_server.commands.loading import loaded_engine
from spillover.edge_server.commands.output import AnswerOutput, answer_to_stdout, print_result
from spillover.edge_server.commands.routed import failure_of, name_of
from spillover.edge_server.config.settings import Settings
from spillover.runtime.events import Delta, Finished
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest, Message
from spillover.runtime.sampling import Sampling

_EPILOG = """\b
Examples:
  spillover demo

It needs neither a network nor a key, and touches no configuration.
"""
PROVIDER = "pretend-cloud"
_QUESTION = "Tell me a story about a fox named Ruby."
_INTRODUCTION = f"""\
The local model is the bundled storyteller. What plays the cloud is a second copy of it: a server
in a process of its own on this machine, which is asked over HTTP as any provider is. Nothing
leaves this machine. In mid-answer the demo asks for the cloud; a moment later it kills the server.

you: {_QUESTION}
"""
_NEXT = """
Next: `spillover connect URL` names a real provider, and `spillover chat` asks you before an answer
goes there."""
_LEG_CHARS = 60
"""So much of a leg is shown before the next change."""
_MAX_TRIES = 5
"""A story may be over before it can change its writer."""


@click.command("demo", epilog=_EPILOG)
def command() -> int:
    """Show an answer that goes to a pretended cloud in mid-sentence, and comes back."""
    settings = Settings(engine=EngineOptions(n_threads=1))
    with (
        tempfile.TemporaryDirectory(prefix="spillover-demo-") as folder,
        loaded_engine(settings) as engine,
    ):
        print_result(_INTRODUCTION)
        for seed in range(_MAX_TRIES):
            with (
                _server(Path(folder)) as (server, url),
                Router.open(engine, _cloud(url, Path(folder)), {}) as router,
            ):
                if _Show(router, server).run(seed):
                    print_result(_NEXT)
                    return 0
            print_result("(the story was over too soon; once more)\n")
    return 1


class _Show:
    """One answer, and what happens to it."""

    def __init__(self, router: Router, server: subprocess.Popen[str]) -> None:
        self._router = router
        self._server = server
        self._output: AnswerOutput = answer_to_stdout()
        self._n_chars = 0
        self._handoffs: list[Handoff] = []
        self._gaps_ms: list[float] = []

    def run(self, seed: int) -> bool:
        """Show the answer; whether it has been in the cloud and back."""
        options = RouteOptions()
        request = GenerationRequest(
            messages=(Message(role="user", content=_QUESTION),),
            sampling=Sampling(seed=seed, temperature=0.7 if seed else 0.0),
            max_tokens=220,
        )
        with closing(self._router.stream(request, options)) as events:
            for event in events:
                self._see(event)
                if self._n_chars >= _LEG_CHARS and not self._handoffs:
                    self._router.hand_over(options.id)
                if self._n_chars >= _LEG_CHARS and len(self._handoffs) == 1:
                    self._server.kill()
        return len(self._handoffs) > 1

    def _see(self, event: StreamEvent) -> None:
        match event:
            case Delta(text=text):
                self._output.write(text)
                self._n_chars += len(text)
            case Handoff():
                self._handoffs.append(event)
                self._n_chars = 0
                self._output.write(f" ⟦{in_words(event.reason)} → {name_of(event.target)}⟧ ")
            case ProviderFailed():
                self._output.write(f" ⟦{failure_of(event)}⟧")
            case Seam():
                self._gaps_ms.append(event.gap_ms)
            case Finished():
                self._output.end_line()
                print_result(f"\n{self._summary(event)}")

    def _summary(self, event: Finished) -> str:
        legs = ", then ".join(
            f"{name_of(leg.writer)} {leg.completion_tokens}" for leg in event.usage.legs
        )
        gaps = " and ".join(f"{gap:.0f} ms" for gap in self._gaps_ms)
        return f"tokens: {legs}; until the next writer's first words: {gaps or 'none'}"


def _cloud(url: str, folder: Path) -> CloudSettings:
    provider = ProviderSettings(
        name=PROVIDER, dialect="openai", model="storyteller", base_url=f"{url}/v1"
    )
    return CloudSettings(fallback="auto", providers=(provider,), policy=UNWATCHED, data_dir=folder)


@contextmanager
def _server(folder: Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    """A server of the bundled model, and its address. The user's own settings do not count."""
    config = folder / "config.toml"
    config.touch()
    arguments = ["--config", str(config), "--threads", "1"]
    environ = {name: value for name, value in os.environ.items() if "SPILLOVER" not in name}
    with own_server(arguments, environ, "starting the pretended cloud …") as server:
        yield server
