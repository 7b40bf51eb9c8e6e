"""Starting and stopping the server."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from spillover.models.catalogue import find
from tests.edge_server.conftest import Server
from tests.edge_server.places import states
from tests.waiting import wait_until


def test_a_key_is_needed_where_one_is_set_and_never_shown(tmp_path: Path) -> None:
    server = Server(tmp_path, "--api-key", "a-secret-key")
    try:
        with httpx.Client(base_url=server.url) as http:
            assert http.get("/health").status_code == 200
            denied = http.get("/v1/models")
            assert denied.status_code == 401
            assert denied.json()["error"]["type"] == "authentication_error"
            for headers in (
                {"Authorization": "Bearer a-secret-key"},
                {"X-Api-Key": "a-secret-key"},
            ):
                assert http.get("/v1/models", headers=headers).status_code == 200
            wrong = {"Authorization": "Bearer a-secret-kez"}
            assert http.get("/v1/models", headers=wrong).status_code == 401
    finally:
        assert server.stop() == 0
    assert "a-secret-key" not in server.said


def test_the_worker_ends_with_the_server(tmp_path: Path) -> None:
    server = Server(tmp_path)
    children = psutil.Process(server.process.pid).children()
    assert children
    assert server.stop() == 0
    gone, _ = psutil.wait_procs(children, timeout=10)
    assert len(gone) == len(children)


def test_the_folder_of_an_onnx_model_is_served_like_a_gguf_file(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-onnx"
    shutil.copytree(find("storyteller-onnx").path.parent, folder)
    server = Server(tmp_path, str(folder))
    try:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            assert http.get("/v1/models").json()["data"][0]["id"] == "tiny-onnx"
            body = {
                "messages": [{"role": "user", "content": "Tell me a story about a cat named Mia."}],
                "max_tokens": 30,
                "temperature": 0,
                "stream": True,
            }
            with http.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = [line for line in response.iter_lines() if line.startswith("data: {")]
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
        assert "Mia" in "".join(delta.get("content") or "" for delta in deltas)
        assert "device   CPU" in server.said
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_the_grace_and_each_stream_with_its_event(
    tmp_path: Path, number: signal.Signals
) -> None:
    """It used to cut the streams off, with fifty lines of traceback for each."""
    server = Server(
        tmp_path, "--parallel", "2", "--log-level", "debug", shutdown_grace_s=600, n_predict=900
    )
    last: list[str] = []

    def follow() -> None:
        body = {"prompt": "Once upon a time", "stream": True, "ignore_eos": True, "n": 2}
        url = f"{server.url}/v1/completions"
        with httpx.stream("POST", url, json=body, timeout=60) as response:
            last.append([line for line in response.iter_lines() if line][-1])

    threads = [threading.Thread(target=follow) for _ in range(4)]
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for thread in threads:
            thread.start()
        wait_until(lambda: "decode" in states(http))
        wait_until(lambda: len(psutil.Process(server.process.pid).net_connections()) >= 6)
    server.process.send_signal(number)
    wait_until(lambda: is_refused(server.url))
    assert server.stop(number) == 0
    for thread in threads:
        thread.join(60)
    assert len(last) == 4
    assert all("the server is shutting down" in line for line in last)
    assert "Traceback" not in server.said
    assert server.said.count(" POST /v1/completions 200 ") == 4


def is_refused(url: str) -> bool:
    try:
        httpx.get(f"{url}/health")
    except httpx.TransportError:
        return True
    return False


@pytest.mark.parametrize("hosts", [["0.0.0.0"], ["127.0.0.1", "0.0.0.0"], ["::1", "::"]])
def test_an_open_bind_without_a_key_is_refused(hosts: list[str]) -> None:
    command = [sys.executable, "-m", "spillover.edge_server.cli", "serve"]
    command += [f"--host={host}" for host in hosts]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "API key" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_server_on_several_hosts_has_one_port(tmp_path: Path) -> None:
    server = Server(tmp_path, "--host", "127.0.0.1", "--host", "127.0.0.2")
    urls = [f"http://127.0.0.{n}:{server.port}" for n in (1, 2)]
    try:
        for url in urls:
            assert httpx.get(f"{url}/v1/models", timeout=60).status_code == 200
    finally:
        assert server.stop() == 0
    assert [line.split()[1] for line in server.said.splitlines() if "address " in line] == urls


def test_what_a_request_leaves_open_is_as_the_owner_set_it(tmp_path: Path) -> None:
    server = Server(tmp_path, "--temp", "0.5", "--seed", "7", "--n-predict", "3", top_k=9)
    try:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            shown = http.get("/props").json()["default_generation_settings"]["params"]
            body = {"prompt": "Once upon a time", "ignore_eos": True}
            answers = [
                http.post("/completion", json=body | asked).json()
                for asked in ({}, {"temperature": 0, "seed": -1, "n_predict": 5, "top_k": -1})
            ]
            chat = {"messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True}
            cut = http.post("/v1/chat/completions", json=chat).json()
            plain = http.post("/v1/completions", json=body).json()
    finally:
        assert server.stop() == 0
    names = ("temperature", "seed", "n_predict", "top_k")
    made = [answer["generation_settings"] for answer in answers]
    assert [[one[name] for name in names] for one in (shown, *made)] == [
        [0.5, 7, 3, 9],
        [0.5, 7, 3, 9],
        [0, -1, 5, 0],
    ]
    assert [answer["tokens_predicted"] for answer in answers] == [3, 5]
    assert cut["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"] == 3


def test_an_abandoned_model_says_why(tmp_path: Path) -> None:
    server = Server(tmp_path, max_restarts=0)
    with httpx.Client(base_url=server.url, timeout=30) as http:
        assert http.get("/health").status_code == 200
        (worker,) = psutil.Process(server.process.pid).children()
        worker.kill()
        wait_until(lambda: http.get("/health").status_code == 503)
        wait_until(lambda: "SIGKILL" in http.get("/health").json()["error"]["message"])
        refused = http.post("/v1/completions", json={"prompt": "Once"})
        assert refused.status_code == 503
        assert "SIGKILL" in refused.json()["error"]["message"]
    assert server.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit and /proc are Linux's")
def test_the_endpoint_lives_and_streams_end_when_the_worker_gets_no_more_memory(
    tmp_path: Path,
) -> None:
    import resource

    server = Server(tmp_path, "--parallel", "4")
    body = {"prompt": "Once upon a time. " * 60, "max_tokens": 40, "stream": True}

    def stream(n: int) -> list[str]:
        asked = body | {"prompt": f"{n}: {body['prompt']}"}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=asked, timeout=60) as answer:
            return [line for line in answer.iter_lines() if line]

    try:
        (worker,) = psutil.Process(server.process.pid).children()
        limit = worker.memory_info().vms + (1 << 20)
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (limit, limit))
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(stream, range(4)))
        assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
        after = stream(5)
    finally:
        assert server.stop() == 0
    for lines in (*answers, after):
        assert lines[-1] == "data: [DONE]"
        ends = [line for line in lines if '"finish_reason":"' in line or '"error"' in line]
        assert ends, "it says how it ended"
    assert not any('"error"' in line for line in after)


def test_a_model_may_have_several_names(tmp_path: Path) -> None:
    server = Server(tmp_path, "--alias", "house, gpt-4o,")
    try:
        entry, *_ = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert entry["id"] == "house"
        assert entry["aliases"] == ["house", "gpt-4o"]
        assert httpx.get(f"{server.url}/v1/models/gpt-4o").json() == entry
        assert httpx.get(f"{server.url}/v1/models/other").status_code == 404
        body = {"model": "other", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
        assert answer["model"] == "house"
    finally:
        server.stop()


def test_a_second_port_is_for_clients_of_ollama(tmp_path: Path) -> None:
    # That it is taken was said when the model had been loaded: this one cannot be.
    model = tmp_path / "damaged.gguf"
    model.write_bytes(b"GGUF" + bytes(100))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "spillover.edge_server.cli", "serve", "--port", "0"]
        refused = subprocess.run(
            [*command, str(model), "--ollama-port", str(port)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == 2
        assert f"cannot listen on 127.0.0.1:{port}: " in refused.stderr
        assert "stop Ollama" in refused.stderr
    server = Server(tmp_path, "--ollama-port", str(port))
    try:
        for url in (server.url, f"http://127.0.0.1:{port}"):
            assert httpx.get(f"{url}/api/tags").json()["models"][0]["name"] == "storyteller"
    finally:
        assert server.stop() == 0
    assert f"address  http://127.0.0.1:{port}\n" in server.said
