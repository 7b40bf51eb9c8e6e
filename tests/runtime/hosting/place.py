"""A host of two real models in their workers, with memory for one of them or for both."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

from spillover.models.catalogue import find
from spillover.runtime.events import EngineEvent, Queued
from spillover.runtime.hosting.hosted_model import HostedModel
from spillover.runtime.hosting.memory import needed_bytes
from spillover.runtime.hosting.model_host import ModelHost
from spillover.runtime.hosting.residence import ModelSpec
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from tests.answers import ask

GGUF, ONNX = "storyteller", "storyteller-onnx"
ONE_MODEL = 300 * 2**20
"""A budget that holds one of the two, and not both."""


class Place:
    """A host of both models, and the order in which they were loaded."""

    def __init__(self, folder: Path, budget_bytes: int | None = None) -> None:
        self.folder = folder
        self.host = ModelHost(budget_bytes=budget_bytes)
        self.loads: list[str] = []
        self.started = threading.Event()
        self.gate = threading.Event()
        """Models wait for it before they are loaded."""
        self.gate.set()

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Until it is true; the host tells of each change."""
        with self.host._changed:
            assert self.host._changed.wait_for(lambda: bool(condition()), 120)

    def model(
        self,
        name: str,
        path: Path | None = None,
        draft_model: Path | None = None,
        kind: type[LocalEngine] = LocalEngine,
        **spec: object,
    ) -> HostedModel:
        options = EngineOptions(
            n_threads=1, n_parallel=2, cache_dir=self.folder, draft_model=draft_model
        )
        file = path or find(name).path

        def start(most_bytes: int) -> LocalEngine:
            self.loads.append(name)
            self.started.set()
            assert self.gate.wait(60)
            return kind(file, options, name=name, most_bytes=most_bytes)

        fields = {"needed_bytes": partial(needed_bytes, file, options), **spec}
        return HostedModel(self.host, self.host.add(ModelSpec(name=name, start=start, **fields)))  # type: ignore[arg-type]  # by name


def begun(model: HostedModel, max_tokens: int = 40) -> Generator[EngineEvent]:
    """A running answer of *model*, which is loaded."""
    events = model.stream(ask(max_tokens=max_tokens, ignore_eos=True))
    assert any(isinstance(event, Queued) for event in events)
    return events


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
