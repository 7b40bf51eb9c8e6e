"""A GGUF file that is served from its conversion, and what happens when that is lost."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from spillover.models.catalogue import default_model, find
from spillover.quantize.conversion.compare import prepare
from spillover.runtime.conversions.choice import look_up
from spillover.runtime.conversions.store import ConversionStore
from spillover.runtime.errors import ModelError
from spillover.runtime.events import Delta
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.machine.llama_trial import NOT_INSTALLED
from spillover.runtime.options import EngineOptions
from spillover.runtime.worker import supervisor
from spillover.runtime.worker.protocol import Load
from spillover.runtime.worker.worker_process import WorkerProcess
from tests.answers import ask, end_of


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundled file, and its conversion in the cache."""
    folder = tmp_path_factory.mktemp("converted")
    shutil.copy(default_model().path, folder / "m.gguf")
    prepare(folder / "m.gguf", options_in(folder), lambda what, n, n_all: None, measures=False)
    return folder


@pytest.fixture
def copy(converted: Path, tmp_path: Path) -> Path:
    """The same, to be damaged. The store knows the file by its place and its time."""
    options = options_in(converted)
    note = look_up(converted / "m.gguf", options).note
    assert note is not None
    shutil.copytree(converted, tmp_path, dirs_exist_ok=True)
    store = ConversionStore(options_in(tmp_path).cache_dir)
    store.write_note(msgspec.structs.replace(note, path=str(tmp_path / "m.gguf")))
    return tmp_path


def options_in(folder: Path) -> EngineOptions:
    return EngineOptions(cache_dir=folder / "cache", engine="onnx", n_threads=1, n_parallel=2)


def conversion_in(folder: Path) -> Path:
    path = look_up(folder / "m.gguf", options_in(folder)).folder(options_in(folder))
    assert path is not None
    return path


def text_of(engine: LocalEngine, **asked: object) -> str:
    stream = engine.stream(ask(max_tokens=20, **asked))  # type: ignore[arg-type]
    return "".join(event.text for event in stream if isinstance(event, Delta))


def test_the_conversion_serves_under_the_files_name(converted: Path) -> None:
    with LocalEngine(converted / "m.gguf", options_in(converted)) as engine:
        card = engine.wait_ready(60)
        assert card.library.startswith("onnxruntime")
        assert (card.name, card.path) == ("m", str(converted / "m.gguf"))
        assert card.engine_reason == "engine is onnx"
        assert card.warnings == ()
        assert text_of(engine)


def test_use_keeps_a_conversion_from_being_removed_first(copy: Path) -> None:
    record = conversion_in(copy) / "conversion.json"
    os.utime(record, (1, 1))
    with LocalEngine(copy / "m.gguf", options_in(copy)) as engine:
        engine.wait_ready(60)
    assert record.stat().st_mtime > 1


def flip(folder: Path) -> None:
    graph = folder / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)


def test_a_wrong_byte_means_that_llama_cpp_serves_and_says_why(copy: Path) -> None:
    folder = conversion_in(copy)
    flip(folder)
    with LocalEngine(copy / "m.gguf", options_in(copy)) as engine:
        card = engine.wait_ready(60)
        assert card.library.startswith("llama-cpp-python")
        assert any("was damaged and is removed" in warning for warning in card.warnings)
        assert text_of(engine)
    assert not folder.exists(), "so that it is made again"


def test_an_answer_continues_when_worker_and_conversion_are_lost(copy: Path) -> None:
    with LocalEngine(copy / "m.gguf", options_in(copy)) as engine:
        engine.wait_ready(60)
        events = []
        for event in engine.stream(ask(max_tokens=60, ignore_eos=True)):
            events.append(event)
            if len(events) == 10:
                shutil.rmtree(conversion_in(copy))
                assert engine.worker_pid is not None
                os.kill(engine.worker_pid, signal.SIGKILL)
        assert end_of(events).usage.completion_tokens == 60
        assert engine.card.library.startswith("llama-cpp-python")


def test_a_worker_that_dies_at_the_conversion_loads_the_file(
    converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[Load] = []

    def start(order: Load, *callbacks: Callable[..., None]) -> WorkerProcess:
        orders.append(order)
        worker = WorkerProcess(order, *callbacks)
        if len(orders) == 1:
            worker.kill()
        return worker

    monkeypatch.setattr(supervisor, "WorkerProcess", start)
    with LocalEngine(converted / "m.gguf", options_in(converted)) as engine:
        assert engine.wait_ready(60).library.startswith("llama-cpp-python")
        assert "SIGKILL" in engine.card.engine_reason
    assert [order.choice.conversion is None for order in orders] == [False, True]


def test_a_conversion_at_which_a_worker_crashes_is_removed(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at a restart, which used to try it again and again."""
    orders: list[Load] = []

    def start(order: Load, *callbacks: Callable[..., None]) -> WorkerProcess:
        orders.append(order)
        worker = WorkerProcess(order, *callbacks)
        if len(orders) == 2:
            os.kill(worker.pid, signal.SIGSEGV)
        return worker

    folder = conversion_in(copy)
    monkeypatch.setattr(supervisor, "WorkerProcess", start)
    with LocalEngine(copy / "m.gguf", options_in(copy)) as engine:
        assert engine.wait_ready(60).library.startswith("onnxruntime")
        events = []
        for event in engine.stream(ask(max_tokens=60, ignore_eos=True)):
            events.append(event)
            if len(events) == 10:
                assert engine.worker_pid is not None
                os.kill(engine.worker_pid, signal.SIGKILL)
        assert end_of(events).usage.completion_tokens == 60
        assert "SIGSEGV" in engine.card.engine_reason
    assert [order.choice.conversion is None for order in orders] == [False, False, True]
    assert not folder.exists(), "so that it is made again"


def test_onnx_without_a_conversion_says_how_to_get_one(tmp_path: Path) -> None:
    path = Path(shutil.copy(default_model().path, tmp_path / "m.gguf"))
    with (
        LocalEngine(path, options_in(tmp_path)) as engine,
        pytest.raises(ModelError, match=r"`spillover engines .*m\.gguf` makes one"),
    ):
        engine.wait_ready(60)


def test_llama_cannot_serve_an_onnx_model(tmp_path: Path) -> None:
    options = EngineOptions(cache_dir=tmp_path, engine="llama", n_threads=1)
    with (
        LocalEngine(find("storyteller-onnx").path, options) as engine,
        pytest.raises(ModelError, match=r"engine is llama, but .* is an ONNX model"),
    ):
        engine.wait_ready(60)


def test_without_llama_cpp_a_conversion_is_served_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(default_model().path, tmp_path / "m.gguf"))
    options = EngineOptions(cache_dir=tmp_path / "cache", n_threads=1)
    for module in ("runtime.conversions.choice", "quantize.conversion.compare"):
        monkeypatch.setattr(f"spillover.{module}.llama_problem", lambda _: NOT_INSTALLED)
    prepare(path, options, lambda what, n, n_all: None, measures=True)
    with LocalEngine(path, options) as engine:
        card = engine.wait_ready(60)
        assert card.library.startswith("onnxruntime")
        assert any("was not compared with the GGUF file" in warning for warning in card.warnings)
