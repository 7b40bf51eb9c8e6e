"""Several models behind one endpoint: their names, states, loads, and what one of them may do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import ollama
import pytest

from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.cloud_fallback.route.router import Router
from spillover.edge_server.answers.served_models import ServedModel, ServedModels
from spillover.edge_server.answers.service import Service
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.web.app import create_app
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.ollama.bodies import keep_alive_s
from spillover.models.catalogue import default_model
from spillover.models.entry import ModelEntry
from spillover.runtime.device_bytes import DeviceBytes
from spillover.runtime.hosting.hosted_model import HostedModel
from spillover.runtime.hosting.model_host import ModelHost
from spillover.runtime.hosting.residence import ModelSpec
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.options import EngineOptions
from tests.edge_server.conftest import Server
from tests.edge_server.routed import HOMELY, KEY, follow, lines, routed_server
from tests.edge_server.story import STORY
from tests.edge_server.wire.dialect_bodies import ASKINGS
from tests.fakes.fake import Fake
from tests.fakes.script import Act
from tests.waiting import wait_until

CONFIG = """
n_parallel = 2
[[local_model]]
name = "tales"
model = "storyteller"
aliases = ["gpt-tales", "auto"]

[[local_model]]
name = "other"
model = "storyteller-onnx"
aliases = ["gpt-other"]
n_ctx = 512

[[local_model]]
name = "broken"
model = "{broken}"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("several")
    broken = folder / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    (folder / "config.toml").write_text(CONFIG.format(broken=broken))
    server = Server(folder, "--config", str(folder / "config.toml"))
    yield server
    assert server.stop() == 0


def states(http: httpx.Client) -> dict[str, str]:
    data = http.get("/v1/models").json()["data"]
    return {model["id"]: model["status"]["value"] for model in data}


def unloaded(http: httpx.Client, name: str) -> None:
    """Until the model is unloaded."""
    assert http.post(f"/v1/models/{name}/unload").status_code == 200
    wait_until(lambda: states(http)[name] == "unloaded")


def model_of(http: httpx.Client, asked: str) -> str:
    body = {"model": asked, "messages": STORY, "max_tokens": 2}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"])


def test_all_names_are_listed_with_the_state_of_their_models(http: httpx.Client) -> None:
    unloaded(http, "other")
    assert states(http) == {
        "tales": "loaded",
        "other": "unloaded",
        "broken": states(http)["broken"],
    }
    listed = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
    assert listed["tales"]["aliases"] == ["gpt-tales", "auto"]
    assert listed["tales"]["status"]["memory_bytes"] > listed["tales"]["meta"]["size"] > 10**6
    assert listed["other"]["meta"]["size"] > 10**6  # of the file, while it is not loaded
    assert listed["other"]["context_length"] in (512, 1024)  # its table's once it was loaded


def test_a_request_is_answered_by_the_model_that_it_names_and_else_by_the_first(
    http: httpx.Client,
) -> None:
    names = ("gpt-other", "other:latest", "gpt-tales", "storyteller", "auto", "gpt-5", "")
    assert [model_of(http, name) for name in names] == [
        *["other"] * 2,
        *["tales"] * 5,
    ]
    assert http.get("/v1/models/gpt-other").json()["context_length"] == 512
    assert http.get("/props", params={"model": "other"}).json()["n_ctx"] == 512
    path = "/v1beta/models/other:generateContent"
    body = {**ASKINGS["gemini"].body, "generationConfig": {"max_tokens": 2}}
    assert http.post(path, json=body).json()["modelVersion"] == "other"


def test_a_path_is_no_name(http: httpx.Client) -> None:
    path = str(Path(default_model().path).with_name("storyteller-Q8_0.gguf"))
    assert http.get(f"/v1/models/{path}").status_code == 404
    assert model_of(http, path) == "tales"


def test_who_asks_for_progress_is_told_of_the_load(http: httpx.Client) -> None:
    unloaded(http, "other")
    body = {"model": "other", "messages": STORY, "stream": True, "max_tokens": 4}
    told = []
    request = {**body, "return_progress": True}
    with http.stream("POST", "/v1/chat/completions", json=request) as stream:
        assert stream.status_code == 200
        told = [data for _, data in lines(stream) if data]
    assert [each["loading"] for each in told if "loading" in each] == [
        {"model": "other", "n_ahead": 0, "progress": None}
    ]
    assert told[-1]["choices"][0]["finish_reason"] == "length"
    unloaded(http, "other")
    with http.stream("POST", "/v1/chat/completions", json=body) as stream:
        assert "loading" not in stream.read().decode()


def test_a_model_is_loaded_and_unloaded_by_request(http: httpx.Client) -> None:
    unloaded(http, "other")
    loaded = http.post("/v1/models/other/load", json={})
    assert loaded.json()["status"]["value"] == "loaded"
    assert {model["name"] for model in http.get("/api/ps").json()["models"]} >= {"tales", "other"}
    unloaded(http, "other")
    assert "other" not in {model["name"] for model in http.get("/api/ps").json()["models"]}
    tags = {model["name"] for model in http.get("/api/tags").json()["models"]}
    assert tags == set(states(http))
    for change in ("load", "unload"):
        refused = http.post(f"/v1/models/nobody/{change}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        foreign = http.post(f"/v1/models/other/{change}", headers={"Origin": "https://evil.test"})
        assert foreign.status_code == 403


def test_a_question_waits_until_its_model_is_loaded(http: httpx.Client) -> None:
    unloaded(http, "other")
    tokens = http.post("/tokenize", json={"model": "other", "content": "Once upon a time"})
    assert len(tokens.json()["tokens"]) > 2
    assert states(http)["other"] == "loaded"


def test_a_model_that_cannot_be_loaded_is_an_error_for_its_own_requests(
    http: httpx.Client,
) -> None:
    body = {"model": "broken", "messages": STORY, "max_tokens": 2}
    for path in ("/v1/chat/completions", "/v1/models/broken/load", "/tokenize"):
        refused = http.post(path, json=body | {"content": "Once"})
        assert refused.status_code == 503
        assert "broken.gguf" in refused.json()["error"]["message"]
    status = http.get("/v1/models/broken").json()["status"]
    assert status["value"] == "failed"
    assert "broken.gguf" in status["error"]
    assert model_of(http, "tales") == "tales"
    assert http.get("/health").json() == {"status": "ok"}


def test_ollamas_clients_load_a_model_say_how_long_it_stays_and_unload_it(
    server: Server, http: httpx.Client
) -> None:
    client = ollama.Client(server.url)
    with closing(client._client):
        assert client.generate(model="other", prompt="", keep_alive="10m").done_reason == "load"
        (shown,) = [model for model in client.ps().models if model.model == "other"]
        assert shown.expires_at is not None
        assert 0 < http.get("/v1/models/other").json()["status"]["expires_in_s"] <= 600
        assert client.chat(
            model="other", messages=STORY, keep_alive=0, options={"num_predict": 2}
        ).done
        wait_until(lambda: states(http)["other"] == "unloaded")
        assert client.generate(model="other", prompt="").done_reason == "load"
        assert states(http)["other"] == "loaded", "it stays as long as its owner wants"
        assert client.generate(model="other", prompt="", keep_alive=-1).done_reason == "load"
        assert http.get("/v1/models/other").json()["status"]["expires_in_s"] is None
        assert client.generate(model="other", prompt="", keep_alive=0).done_reason == "unload"
        wait_until(lambda: states(http)["other"] == "unloaded")


def test_an_unknown_name_does_not_unload_what_answers_for_it(
    server: Server, http: httpx.Client
) -> None:
    client = ollama.Client(server.url)
    with closing(client._client):
        assert client.generate(model="tales", prompt="").done_reason == "load"
        assert client.generate(model="nobody", prompt="", keep_alive=0).done_reason == "unload"
        assert client.chat(
            model="nobody", messages=STORY, keep_alive=0, options={"num_predict": 2}
        ).done
        status = http.get("/v1/models/tales").json()["status"]
        assert (status["value"], status["expires_in_s"]) == ("loaded", None)


def test_keep_alive_is_a_number_or_a_duration() -> None:
    assert [keep_alive_s(value) for value in (None, "", 0, "0s", 5, "5m", "1h30m", "250ms")] == [
        *[None] * 2,
        *[0] * 2,
        5,
        300,
        5400,
        0.25,
    ]
    assert [keep_alive_s(value) for value in (-1, "-1", "-5m", 1e300, "1e99")] == [float("inf")] * 5
    for wrong in ("soon", "5 m", "m", "1h-1m", "9" * 200 + "m"):
        with pytest.raises(WireError, match="keep_alive"):
            keep_alive_s(wrong)


def test_a_model_that_was_found_is_made_once_and_anew_when_its_file_has_moved(
    tmp_path: Path,
) -> None:
    """A name in capitals used to make another model of the same file for each request."""
    made: list[Path] = []
    files = [tmp_path / "first.gguf"]
    with ModelHost() as host:

        def hosted(name: str) -> HostedModel:
            def start(most_bytes: int) -> LocalEngine:
                raise AssertionError("nobody asks it")

            return HostedModel(
                host,
                host.add(ModelSpec(name=name, start=start, needed_bytes=lambda gpu: DeviceBytes())),
            )

        def make(entry: ModelEntry) -> ServedModel:
            made.append(entry.path)
            return ServedModel(hosted(entry.name), router.local, entry=entry)

        def find(name: str) -> ModelEntry | None:
            names = ("tiny", "tiny:q8_0")
            return ModelEntry(name=name.lower(), path=files[0]) if name.lower() in names else None

        default = hosted("default")
        router = Router(default, CloudSettings(), None)
        models = ServedModels(ServedModel(default, router.local), find=find, make=make)
        files[0].touch()
        first = models.known("TINY")
        assert [models.known(name) for name in ("tiny", "Tiny", "tiny:latest")] == [first] * 3
        assert models.known("tiny:Q8_0") is first, "another name of the same file loaded it again"
        assert models.known("other") is None
        assert models.known("x" * 1000) is None
        files[0].unlink()
        files[0] = tmp_path / "second.gguf"
        files[0].touch()
        assert models.known("tiny") is not first
        assert made == [tmp_path / "first.gguf", tmp_path / "second.gguf"]


# --- memory and the cloud ---------------------------------------------------------------------

TIGHT = """
[[local_model]]
name = "storyteller"
pinned = true

[[local_model]]
name = "roomy"
model = "storyteller-onnx"

[[local_model]]
name = "homely"
model = "storyteller-onnx"
fallback = "never"
"""


def test_who_finds_no_room_for_its_model_is_handed_over_where_the_owner_allows_it(
    fake: Fake, tmp_path: Path
) -> None:
    fake.script(Act(text="A cloud came. The end."))
    top = "warms_connections = false\nn_parallel = 1\nmodels_memory_mb = 300"
    server = routed_server(tmp_path, fake, top=top, fields="vision = true", tables=TIGHT)
    try:
        answer = follow(server, model="roomy", max_tokens=20)
        assert answer.reasons == ["memory"]
        assert answer.of("handoff")[0]["signals"]["missing_bytes"] > 10**6
        assert answer.text == "A cloud came. The end."
        for name in ("homely", "storyteller-onnx"):  # whose file it is: the stricter table counts
            kept = follow(server, model=name, max_tokens=20)
            assert "homely is not loaded: it needs" in kept.error["message"]
            assert "more memory" in kept.error["message"]
        assert len(fake.requests) == 1
        assert KEY not in json.dumps(kept.error)
        with httpx.Client(base_url=server.url, timeout=60) as http:
            assert states(http)["storyteller"] == "loaded"
            listed = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
            assert "image" in listed["storyteller"]["modalities"]["input"]
            assert listed["homely"]["modalities"]["input"] == ["text"]
    finally:
        assert server.stop() == 0


def test_each_model_has_its_own_fallback_whatever_the_first_one_has(
    fake: Fake, tmp_path: Path
) -> None:
    """The first one's "never" used to close the cloud for all, and its "auto" to promise images."""
    fake.script(Act(text="A cloud came. The end."))
    server = routed_server(tmp_path, fake, fallback="never", fields="vision = true", tables=HOMELY)
    to_cloud = {"prefer": "cloud"}
    try:
        away = follow(server, model="open", max_tokens=20, spillover=to_cloud)
        assert away.text == "A cloud came. The end."
        with httpx.Client(base_url=server.url, timeout=60) as http:
            # A table without a fallback has the common one, and is that of its file.
            for model in ("homely", "storyteller"):
                kept = follow(server, model=model, max_tokens=4, spillover=to_cloud)
                assert (kept.reasons, kept.error) == ([], None)
                body = {"model": model, "messages": STORY, "spillover": to_cloud}
                told = http.post("/v1/route/explain", json=body).json()
                assert "nothing leaves this device" in told["cloud_problem"]
            assert len(fake.requests) == 1
            listed = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
            assert {name: model["modalities"]["input"] for name, model in listed.items()} == {
                "homely": ["text"],
                "open": ["text", "image"],
            }
            for name, sees in (("homely", False), ("open", True)):
                shown = http.post("/api/show", json={"model": name}).json()
                assert ("vision" in shown["capabilities"]) == sees
            for name, floor in (("homely", None), ("open", 0.25)):
                assert model_of(http, name) == name  # it is loaded
                device = http.get("/v1/device", params={"model": name}).json()
                assert (device["model"], device["decode_floor"]) == (name, floor)
    finally:
        assert server.stop() == 0


PRIVATE = """
[[local_model]]
name = "first"
model = "storyteller"

[[local_model]]
name = "private"
model = "storyteller-onnx"
fallback = "never"
"""


def test_a_table_keeps_its_model_on_the_device_by_whatever_name_it_is_asked_for(
    fake: Fake, tmp_path: Path
) -> None:
    """By the name of its file a second copy was made, with the common settings: it was sent."""
    server = routed_server(tmp_path, fake, tables=PRIVATE)
    try:
        for model in ("private", "storyteller-onnx", "storyteller-onnx:latest"):
            to_cloud = {"prefer": "cloud"}
            kept = follow(server, model=model, max_tokens=4, spillover=to_cloud)
            assert (kept.reasons, kept.error, kept.finish) == ([], None, ["length"])
        assert fake.requests == []
        with httpx.Client(base_url=server.url, timeout=60) as http:
            assert "storyteller-onnx" not in states(http)
    finally:
        assert server.stop() == 0


def test_questions_to_two_models_of_which_one_fits_are_all_answered(tmp_path: Path) -> None:
    """One that lost its model again while it was served kept it, and waited for it, for ever."""
    (tmp_path / "config.toml").write_text(f"models_memory_mb = 300\n{HOMELY}")
    server = Server(tmp_path, "--config", str(tmp_path / "config.toml"))

    def ask(model: str) -> list[int]:
        body = {"model": model, "content": "Once upon a time"}
        url = f"{server.url}/tokenize"
        return [httpx.post(url, json=body, timeout=120).status_code for _ in range(2)]

    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(ask, ("homely", "open") * 2))
        assert found == [[200, 200]] * 4
    finally:
        assert server.stop() == 0


def test_under_another_server_a_question_waits_too(tmp_path: Path) -> None:
    options = EngineOptions(n_threads=1, n_parallel=1, cache_dir=tmp_path)
    path = Path(default_model().path)
    with ModelHost() as host:
        spec = ModelSpec(
            name="tales",
            start=lambda most_bytes: LocalEngine(path, options, name="tales"),
            needed_bytes=lambda gpu: DeviceBytes(),
        )
        engine = HostedModel(host, host.add(spec))
        router = Router(engine, CloudSettings(), None)
        models = ServedModels(ServedModel(engine, router.local))
        service = Service(engine, router, max_answers=4, max_generation_s=60, models=models)
        web = create_app(service, Settings()).test_client()
        assert web.get("/props").status_code == 503  # to look at it does not load it
        assert engine.state().state == "unloaded"
        answer = web.post("/tokenize", json={"content": "Once upon a time"})
        assert len(answer.get_json()["tokens"]) > 2
        assert web.get("/props").get_json()["n_ctx"] == 1024
        service.close()
