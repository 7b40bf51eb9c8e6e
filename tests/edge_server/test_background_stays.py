"""What nobody waits for is not handed over because it would have to wait, or to make room."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from spillover.cloud_fallback.policy.reason import ReasonCode
from tests.edge_server.conftest import Server
from tests.edge_server.routed import Answer, follow, once, routed_server
from tests.fakes.fake import Fake
from tests.waiting import wait_until

ONE_AT_A_TIME = f"""
[policy]
switched_off = {sorted(set(get_args(ReasonCode)) - {"queue", "memory"})}

[[local_model]]
name = "first"
model = "storyteller"
max_background = 1

[[local_model]]
name = "second"
model = "storyteller-onnx"

[[local_model]]
name = "third"
model = "storyteller"
max_background = 0
"""


@pytest.fixture
def server(fake: Fake, tmp_path: Path) -> Iterator[Server]:
    """Its provider may answer everything; its memory holds one model."""
    top = "warms_connections = false\nn_parallel = 1\nmodels_memory_mb = 300"
    server = routed_server(tmp_path, fake, top=top, tables=ONE_AT_A_TIME)
    yield server
    assert server.stop() == 0


def test_an_answer_of_the_background_waits_or_ends_on_the_device(
    fake: Fake, server: Server
) -> None:
    """Each of the three used to be sent to the provider, and paid for."""
    quiet: dict[str, Any] = {"priority": "background", "ignore_eos": True}
    full: list[Answer] = []

    def ask_one_too_many(answer: Answer) -> None:
        full.append(follow(server, model="first", max_tokens=4, **quiet))

    too_many = once(lambda answer: bool(answer.text), ask_one_too_many)
    follow(server, too_many, model="first", max_tokens=900, **quiet)
    assert "max_background" in full[0].error["message"]
    no_room = follow(server, model="second", max_tokens=4, **quiet)
    assert "more memory" in no_room.error["message"]
    none = follow(server, model="third", max_tokens=4, **quiet)
    assert "max_background is 0" in none.error["message"]
    assert fake.record.accepted == 0

    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.url, timeout=60) as http:

        def unloaded() -> bool:
            models: list[dict[str, Any]] = http.get("/v1/models").json()["data"]
            first = next(model for model in models if model["id"] == "first")
            return bool(first["status"]["value"] == "unloaded")

        assert http.post("/v1/models/first/unload").status_code == 200
        wait_until(unloaded)
        others: list[Future[Answer]] = []

        def need_the_memory(answer: Answer) -> None:
            others.append(pool.submit(follow, server, model="first", max_tokens=4))

        needs = once(lambda answer: bool(answer.text), need_the_memory)
        cut = follow(server, needs, model="second", max_tokens=900, **quiet)
        assert (cut.reasons, cut.finish) == ([], ["interrupted"])
        assert others[0].result(60).finish == ["length"]
    assert fake.record.accepted == 0
