"""Which engine serves a GGUF file, and what the owner sees of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import msgspec
import pytest

from spillover.edge_server import cli
from spillover.edge_server.commands.engines.job_process import comparing_in_background
from spillover.edge_server.commands.engines.report import report_on
from spillover.edge_server.commands.loading import default_memory
from spillover.edge_server.config.settings import Settings
from spillover.models.catalogue import default_model
from spillover.runtime.conversions.choice import Findings, comparison_store, look_up
from spillover.runtime.conversions.record import (
    EXPORTER,
    Comparison,
    Conversion,
    EngineRates,
    Fidelity,
    StoredFile,
    comparison_key,
)
from spillover.runtime.conversions.store import ConversionStore, fresh_note
from tests.edge_server.conftest import Server
from tests.edge_server.engines.conversions import is_checked, is_free, options_in

FAST = EngineRates(prefill=1000, decode_1=100, decode_4=200)
SLOW = EngineRates(prefill=100, decode_1=10, decode_4=20)


def test_a_file_is_compared_beside_the_server_and_the_faster_engine_serves_next(
    larger: Path, tmp_path: Path
) -> None:
    options = options_in(tmp_path)
    server = Server(tmp_path, str(larger), "--parallel", "2", "--n-ctx", "128")
    try:
        assert "engine   llama-cpp-python" in server.said
        assert "have not been compared" in server.said
        assert server.process.stderr is not None
        # Waiting in a loop would take the core that the job is left.
        told = next(line for line in server.process.stderr if "m.gguf " in line)
        assert "stays with llama.cpp" in told or "runs on ONNX Runtime" in told
        assert is_checked(larger, options)
        assert is_free(ConversionStore(options.cache_dir))
        assert httpx.get(f"{server.url}/health").status_code == 200
    finally:
        assert server.stop() == 0
    conversion = look_up(larger, options).conversion
    assert conversion is not None
    for llama, onnx, library in ((SLOW, FAST, "onnxruntime"), (FAST, SLOW, "llama-cpp-python")):
        found = Comparison(llama=llama, onnx=onnx)
        comparison_store(conversion.digest, options).write(found)
        server = Server(tmp_path, str(larger), "--parallel", "2", "--n-ctx", "128")
        try:
            assert f"engine   {library}" in server.said
            body = {"prompt": "abc", "max_tokens": 3, "ignore_eos": True}
            answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
            assert answer["usage"]["completion_tokens"] == 3
        finally:
            assert server.stop() == 0


def test_a_server_that_must_use_onnx_converts_first(tmp_path: Path) -> None:
    path = Path(shutil.copy(default_model().path, tmp_path / "m.gguf"))
    server = Server(tmp_path, str(path), "--engine", "onnx")
    try:
        assert "converting m.gguf for ONNX Runtime (engine is onnx)" in server.said
        assert "engine   onnxruntime" in server.said
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "m"
    finally:
        assert server.stop() == 0


def serve_onnx(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spillover.edge_server.cli", "serve", "--port", "0"]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    return subprocess.run(
        [*command, str(path), "--engine", "onnx"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )


def test_a_file_that_cannot_be_converted_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(Path(default_model().path).read_bytes()[:60_000])
    for _ in range(2):  # the second time from memory
        ended = serve_onnx(path, tmp_path)
        assert ended.returncode == 1
        assert str(path) in ended.stderr
        assert "damaged" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_start_removes_the_conversions_of_deleted_files(larger: Path, tmp_path: Path) -> None:
    """They stayed until another file was converted, which may be never."""
    options = options_in(tmp_path, engine="llama")
    store = ConversionStore(options.cache_dir)
    store.claim()
    path = tmp_path / "gone.gguf"
    path.write_bytes(b"GGUF")
    note = fresh_note(path)
    assert note is not None
    store.write_note(msgspec.structs.replace(note, digest="a" * 64))
    conversion = Conversion(digest="a" * 64, exporter=EXPORTER, n_ctx=128, files={})
    store.write_record(conversion)
    with comparing_in_background(larger, options):
        assert store.folder_of("a" * 64).exists()
    path.unlink()
    with comparing_in_background(larger, options):
        assert not store.folder_of("a" * 64).exists()


def test_engines_and_doctor_show_both_and_the_choice(
    larger: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = options_in(tmp_path)
    monkeypatch.setenv("SPILLOVER_CACHE_DIR", str(options.cache_dir))
    monkeypatch.setenv("SPILLOVER_N_THREADS", "1")
    monkeypatch.setattr("spillover.quantize.conversion.rates.SLACK_CORES", 1_000.0)
    assert cli.run(["engines", str(larger), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["llama"]["decode_4"] > 0
    assert report["onnx"]["prefill"] > 0
    assert report["fidelity"]["difference"] == ""
    assert Path(report["conversion"]).is_dir()
    conversion = look_up(larger, options).conversion
    assert conversion is not None
    key = comparison_key(conversion.digest, 1)
    assert (options.cache_dir or tmp_path) / "costs" / f"{key}.json"
    comparison_store(conversion.digest, options).write(Comparison(llama=SLOW, onnx=FAST))
    assert cli.run(["doctor", str(larger)]) in (0, 1)
    said = capsys.readouterr().out
    assert "ONNX Runtime is 10.00 times as fast as llama.cpp" in said
    assert "reads 1000 tokens/s, writes 100.0 alone and 200.0 in 4 answers" in said
    assert "KL divergence" in said
    store = ConversionStore(options.cache_dir)
    store.note_failure(Path(report["conversion"]), "it gives no numbers", is_final=True)
    assert cli.run(["engines", str(larger)]) == 0
    said = capsys.readouterr().out
    assert "it gives no numbers (`spillover engines FILE --again` makes it again)" in said
    assert cli.run(["engines", str(larger), "--json", "--again"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert "it gives no numbers" not in again["reason"]
    assert again["onnx"] != {"prefill": 1000, "decode_1": 100, "decode_4": 200}
    assert Path(again["conversion"]).is_dir()


def test_the_memory_that_serve_gives_a_model_decides(
    larger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`spillover engines` looked at all of the device's memory, and named an engine that serve does
    not choose."""
    large = StoredFile(size_bytes=1 << 30, crc32=7)
    true = Fidelity(divergence=0.0, n_positions=50)
    found = Findings(
        size_bytes=1 << 30,
        conversion=Conversion(
            digest="a" * 64, exporter=EXPORTER, n_ctx=4096, files={"m": large}, fidelity=true
        ),
        comparison=Comparison(llama=SLOW, onnx=FAST),
    )
    for module in ("runtime.conversions.choice", "edge_server.commands.engines.report"):
        monkeypatch.setattr(f"spillover.{module}.look_up", lambda *_: found)
    options = options_in(tmp_path)
    assert report_on(larger, options, 2 << 30).engine == "onnx"
    assert "1024 MiB are free" in report_on(larger, options, 1 << 30).reason
    budget_bytes = 700 << 20
    settings = Settings(model=str(larger), models_memory_mb=budget_bytes / 2**20)
    assert default_memory(settings) <= budget_bytes
    assert default_memory(Settings(model=str(larger), models_memory_mb=1.0)) > larger.stat().st_size
