"""The process that converts a GGUF file beside the server, and what the owner sees of it."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest

from spillover.edge_server import cli
from spillover.edge_server.commands.engines import job_process
from spillover.edge_server.commands.engines.job import LOWEST
from spillover.edge_server.commands.engines.job_process import (
    JobProcess,
    LoadConversion,
    comparing_in_background,
)
from spillover.edge_server.commands.engines.order import Order, encode
from spillover.edge_server.commands.engines.report import report_on
from spillover.edge_server.commands.loading import default_memory
from spillover.edge_server.config.settings import Settings
from spillover.models.catalogue import default_model
from spillover.models.file_lock import try_lock
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.conversions.choice import (
    MIN_SOURCE_BYTES,
    Findings,
    comparison_store,
    look_up,
)
from spillover.runtime.conversions.record import (
    EXPORTER,
    MAX_DEATHS,
    Comparison,
    Conversion,
    EngineRates,
    Fidelity,
    StoredFile,
    comparison_key,
)
from spillover.runtime.conversions.store import ConversionStore, fresh_note, is_intact
from spillover.runtime.errors import ModelError
from spillover.runtime.machine.system_files import SystemFiles
from spillover.runtime.options import EngineOptions
from tests import tiny_gguf, tiny_models
from tests.edge_server.conftest import Server
from tests.edge_server.places import wait_until

LARGER = {
    **tiny_models.CONFIGS["llama"],
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
FAST = EngineRates(prefill=1000, decode_1=100, decode_4=200)
SLOW = EngineRates(prefill=100, decode_1=10, decode_4=20)


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is worth a conversion, with made-up weights."""
    path = tmp_path_factory.mktemp("larger") / "m.gguf"
    tiny_gguf.write_model(path, LARGER, "Q8_0", merges=[("a", "b")])
    assert path.stat().st_size >= MIN_SOURCE_BYTES
    return path


def options_in(folder: Path, **settings: object) -> EngineOptions:
    return EngineOptions(cache_dir=folder / "spillover", n_threads=1, **settings)  # type: ignore[arg-type]


def is_free(store: ConversionStore) -> bool:
    with try_lock(store.lock) as is_ours:
        return is_ours


def is_checked(path: Path, options: EngineOptions) -> bool:
    found = look_up(path, options).conversion
    return found is not None and found.fidelity is not None


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


@pytest.fixture
def order(larger: Path, tmp_path: Path) -> Order:
    path = Path(shutil.copy(larger, tmp_path / "m.gguf"))
    return Order(path=path, options=options_in(tmp_path), in_background=False)


def left_by(order: Order) -> tuple[set[str], int]:
    """The folders in the store, and the tries that are counted as crashes."""
    store = ConversionStore(order.options.cache_dir)
    note = look_up(order.path, order.options).note
    names = {path.name for path in store.folder.iterdir()} if store.folder.is_dir() else set()
    return names - {"lock", "sources"}, note.n_died if note is not None else 0


def is_converting(order: Order) -> bool:
    return (ConversionStore(order.options.cache_dir).folder / ".making").exists()


def test_work_in_the_background_yields_to_everything(order: Order) -> None:
    """It used to take memory from models that were loaded, too: the system ended one of those."""
    job = JobProcess(msgspec.structs.replace(order, in_background=True))
    wait_until(lambda: psutil.Process(job.pid).nice() == LOWEST)
    if sys.platform == "linux":
        assert Path(f"/proc/{job.pid}/oom_score_adj").read_text().strip() == "1000"
    job.end()


def test_a_job_that_is_ended_leaves_nothing_half_done(order: Order) -> None:
    job = JobProcess(order)
    wait_until(lambda: is_converting(order))
    job.end()
    folders, n_died = left_by(order)
    assert n_died == 0
    store = ConversionStore(order.options.cache_dir)
    assert all(is_intact(store.folder / name) for name in folders)
    assert is_free(store)


def test_a_job_that_is_killed_is_done_again_from_the_start(order: Order) -> None:
    job = JobProcess(order)
    wait_until(lambda: is_converting(order))
    os.kill(job.pid, signal.SIGKILL)
    assert "was ended by SIGKILL" in job.result().error
    job.end()
    assert left_by(order)[1] == 1
    again = JobProcess(order)
    try:
        again.result()
    finally:
        again.end()
    folders, n_died = left_by(order)
    assert n_died == 0
    assert len(folders) == 1
    assert is_checked(order.path, order.options)


@pytest.fixture
def run_out_of_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """As if the system ended one more process for want of memory."""
    counts = tmp_path / "system/proc/vmstat"
    counts.parent.mkdir(parents=True)
    n_kills = itertools.count()

    def run_out_of_memory() -> None:
        counts.write_text(f"oom_kill {next(n_kills)}\n")

    run_out_of_memory()
    monkeypatch.setattr(job_process, "SystemFiles", lambda: SystemFiles(tmp_path / "system"))
    return run_out_of_memory


def test_a_job_that_the_system_ends_for_want_of_memory_is_not_the_files_fault(
    order: Order, run_out_of_memory: Callable[[], None]
) -> None:
    """After three of them the file was given up, however much memory there was later."""
    job = JobProcess(order)
    wait_until(lambda: is_converting(order))
    run_out_of_memory()
    os.kill(job.pid, signal.SIGKILL)
    assert "memory ran out" in job.result().error
    job.end()
    assert left_by(order)[1] == 0


def test_a_conversion_for_which_memory_runs_out_is_tried_only_so_often(
    order: Order, run_out_of_memory: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def start_and_kill(module: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.kill()
        run_out_of_memory()
        started.append(module)
        return process

    monkeypatch.setattr(job_process, "start_process", start_and_kill)
    conversion = LoadConversion(order.path, msgspec.structs.replace(order.options, engine="onnx"))
    for _ in range(MAX_DEATHS + 1):
        assert conversion.is_needed()
        with pytest.raises(ModelError, match="memory ran out"):
            conversion.make(Cancellation())
    assert len(started) == MAX_DEATHS


def test_a_job_that_takes_too_long_to_end_is_not_the_files_fault(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_process, "_END_TIMEOUT_S", 0.0)
    job = JobProcess(order)
    wait_until(lambda: is_converting(order))
    job.end()
    assert left_by(order)[1] == 0


def cancelled_while_converting(order: Order) -> list[str]:
    """The errors of a conversion that somebody waits for and gives up."""
    cancellation = Cancellation()
    errors: list[str] = []

    def convert() -> None:
        try:
            options = msgspec.structs.replace(order.options, engine="onnx")
            LoadConversion(order.path, options).make(cancellation)
        except ModelError as error:
            errors.append(str(error))

    thread = threading.Thread(target=convert)
    thread.start()
    wait_until(lambda: is_converting(order))
    cancellation.cancel()
    thread.join(60)
    return errors


def test_a_conversion_that_somebody_waits_for_can_be_cancelled(order: Order) -> None:
    errors = cancelled_while_converting(order)
    assert len(errors) == 1
    assert "was cancelled" in errors[0]
    assert is_free(ConversionStore(order.options.cache_dir))


def waiting_behind_another(order: Order) -> JobProcess:
    """A job that waits for the lock, which somebody holds."""
    job, lock = JobProcess(order), str(ConversionStore(order.options.cache_dir).lock)
    process = psutil.Process(job.pid)
    # It has tried without waiting, too, and has the file open for both.
    wait_until(lambda: [file.path for file in process.open_files()].count(lock) == 2)
    return job


def test_a_conversion_that_somebody_waits_for_waits_for_another_one(order: Order) -> None:
    """Of two servers that started with one file, the second one ended."""
    with try_lock(ConversionStore(order.options.cache_dir).lock):
        job = waiting_behind_another(order)
    try:
        assert job.result().error == ""
    finally:
        job.end()
    assert is_checked(order.path, order.options)


def test_a_conversion_that_waits_for_another_one_can_be_cancelled(order: Order) -> None:
    with try_lock(ConversionStore(order.options.cache_dir).lock):
        job = waiting_behind_another(order)
        job.end()
        assert not psutil.pid_exists(job.pid)


def give_no_thread(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has none left for *name*."""
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == name:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_a_conversion_is_cancelled_where_no_thread_is_left(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cancelled it met the error, and the conversion went on."""
    give_no_thread("end of the conversion", monkeypatch)
    errors = cancelled_while_converting(order)
    assert len(errors) == 1
    assert "was cancelled" in errors[0]
    assert is_free(ConversionStore(order.options.cache_dir))


def test_a_server_starts_where_no_thread_is_left_for_the_comparison(
    order: Order, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended, and the job went on without it."""
    give_no_thread("engines", monkeypatch)
    with comparing_in_background(order.path, order.options):
        assert is_free(ConversionStore(order.options.cache_dir))
    assert "no more memory or threads" in caplog.text


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


def test_without_a_process_for_a_conversion_the_load_says_why(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(module: str) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(job_process, "start_process", refuse)
    options = msgspec.structs.replace(order.options, engine="onnx")
    with pytest.raises(ModelError, match="Resource temporarily unavailable"):
        LoadConversion(order.path, options).make(Cancellation())


def test_the_job_ends_with_its_parent(order: Order) -> None:
    """Its parent is killed, and cannot end it."""
    code = (
        "import sys; from spillover.edge_server.commands.engines.order import decode_order;"
        "from spillover.edge_server.commands.engines.job_process import JobProcess;"
        "job = JobProcess(decode_order(sys.argv[1].encode()));"
        "print(job.pid, flush=True); job.result()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, encode(order).decode()], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent:
        job = psutil.Process(int(parent.stdout.readline()))
        wait_until(lambda: is_converting(order))
        parent.kill()
    gone, alive = psutil.wait_procs([job], timeout=60)
    assert (len(gone), alive) == (1, [])
    assert left_by(order)[1] == 0


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
