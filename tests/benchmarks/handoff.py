"""python -m tests.benchmarks.handoff [--repeat N]: how long a handoff takes, what watching costs.

The gap is from the trigger to the first text of the cloud at the client, less what the fake
provider took itself; the connection is warm. Watching is the route's work per token (signals,
policies, one more generator) as a share of the CPU time of this process per token.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.models.catalogue import default_model
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest, Message
from spillover.runtime.sampling import Sampling
from tests.cloud_fallback.route.desk import CALM, Desk, end, handoffs, provider, seams
from tests.fakes.fake import Fake
from tests.fakes.script import Act

WATCHFUL = PolicySettings(p_wrong_hold=1.0, p_wrong_enter=1.0)
"""Looks at everything and hands nothing over."""

REST = " Then a cloud came by and finished the story. The end."


def story(i: int, n_tokens: int = 300) -> GenerationRequest:
    message = Message(role="user", content=f"Tell me a story about fox number {i}.")
    return GenerationRequest(
        messages=(message,), sampling=Sampling(temperature=0), max_tokens=n_tokens
    )


def gaps_ms(desk: Desk, fake: Fake, repeat: int) -> list[float]:
    """One value for each handoff over a warm connection."""
    fake.script(Act(rest=REST))
    desk.ask(story(0), hand_over_at=40)
    found = []
    for i in range(1, repeat + 1):
        events = desk.ask(story(i), hand_over_at=40)
        if not handoffs(events):
            continue
        record = fake.requests[-1]
        assert record.first_text_at is not None
        found.append(seams(events)[0].gap_ms - 1e3 * (record.first_text_at - record.arrived_at))
    return found


def us_per_token(desk: Desk, options: RouteOptions, n_tokens: int = 500) -> float:
    """CPU time of this process per token of a local answer."""
    request = GenerationRequest(
        prompt="Once upon a time", max_tokens=n_tokens, ignore_eos=True,
        sampling=Sampling(temperature=0.8, seed=1),
    )  # fmt: skip
    before = time.process_time()
    events = desk.ask(request, options)
    assert not handoffs(events)
    return 1e6 * (time.process_time() - before) / end(events).usage.completion_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=100)
    repeat = parser.parse_args().repeat
    fake = Fake()
    options = EngineOptions(n_parallel=4)
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalEngine(Path(default_model().path), options) as engine,
    ):
        engine.wait_ready()
        time.sleep(5)  # measures its slices once
        calm = Desk(engine, Path(folder), [provider(fake)], policy=CALM)
        gaps = gaps_ms(calm, fake, repeat)
        cuts = quantiles(gaps, n=20)
        line = {"figure": "handoff/gap ms", "median": median(gaps), "p95": cuts[18]}
        print(json.dumps({**line, "max": max(gaps), "n": len(gaps)}))
        watching = Desk(engine, Path(folder), [provider(fake)], policy=WATCHFUL)
        alone, watched = [], []
        for _ in range(10):
            alone.append(us_per_token(watching, RouteOptions(routing=Routing(only="local_only"))))
            watched.append(us_per_token(watching, RouteOptions()))
        for name, values in (("unwatched", alone), ("watched", watched)):
            line = {"figure": f"route/{name} us per token", "median": median(values)}
            print(json.dumps({**line, "min": min(values), "max": max(values), "n": len(values)}))
        calm.close()
        watching.close()
    fake.stop()


if __name__ == "__main__":
    main()
