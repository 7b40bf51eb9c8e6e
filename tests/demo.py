"""python -m tests.demo: two answers that change hands in mid-sentence, on this machine alone.

The local writer is the bundled model; the cloud is a fake provider of the tests, a process on
loopback that speaks a real provider's protocol. What is printed is what a client receives.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from spillover.cloud_fallback.events import Handoff, StreamEvent
from spillover.models.catalogue import default_model
from spillover.runtime.events import Delta, Finished
from spillover.runtime.local_engine import LocalEngine
from tests.answers import ask
from tests.cloud_fallback.route.desk import Desk, provider
from tests.fakes.fake import Fake
from tests.fakes.script import Act

TALE = " Then a cloud came by, and it rained. Ruby shared her umbrella with all of them. The end."


def show(event: StreamEvent) -> None:
    match event:
        case Delta(text=text):
            print(text, end="")
        case Handoff():
            target = event.target.provider or event.target.model
            print(f"⟦{event.reason} → {target}⟧", end="")
        case Finished(reason=reason):
            legs = ", ".join(
                f"{leg.writer.model} {leg.completion_tokens} tokens" for leg in event.usage.legs
            )
            print(f"\n({reason}: {legs})")
    sys.stdout.flush()


def main() -> None:
    fake = Fake()
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalEngine(default_model().path, name="storyteller") as engine,
    ):
        engine.wait_ready()
        desk = Desk(engine, Path(folder), [provider(fake, "cloud")])
        print("-- The user asks for the cloud in mid-answer:")
        fake.script(Act(rest=TALE))
        desk.ask(ask(max_tokens=300), hand_over_at=60, on_event=show)
        print("\n-- The network goes while the cloud writes:")
        fake.script(Act(rest=TALE, cut="reset", cut_after_chunks=20))
        desk.ask(ask(max_tokens=90), hand_over_at=60, on_event=show)
        desk.close()
    fake.stop()


if __name__ == "__main__":
    main()
