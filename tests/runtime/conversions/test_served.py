"""A GGUF file that is served from its conversion, and what happens when that is lost."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from spillover.models.catalogue import default_model, find
from spillover.quantize.conversion.compare import prepare
from spillover.runtime.conversions.choice import choose_engine, look_up
from spillover.runtime.conversions.record import MAX_DEATHS, Conversion
from spillover.runtime.conversions.store import RECORD, ConversionStore, describe_files
from spillover.runtime.errors import ModelError
from spillover.runtime.events import Delta
from spillover.runtime.files.json_file import read_json
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.machine.llama_trial import NOT_INSTALLED
from spillover.runtime.options import EngineOptions
from spillover.runtime.worker.protocol import Load
from spillover.runtime.worker.supervision import supervisor
from spillover.runtime.worker.supervision.worker_process import WorkerProcess
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


def test_a_worker_that_had_to_take_the_file_is_followed_by_one_that_does(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tried the conversion again, which was then blamed for whatever ended it."""
    flip(conversion_in(copy))
    orders = end_first_workers(0, signal.SIGKILL, monkeypatch)
    with LocalEngine(copy / "m.gguf", options_in(copy)) as engine:
        engine.wait_ready(60)
        events = []
        for event in engine.stream(ask(max_tokens=60, ignore_eos=True)):
            events.append(event)
            if len(events) == 10:
                assert engine.worker_pid is not None
                os.kill(engine.worker_pid, signal.SIGKILL)
        assert end_of(events).usage.completion_tokens == 60
        assert "was damaged" in engine.card.engine_reason
    assert [order.choice.conversion is None for order in orders] == [False, True]


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


def end_first_workers(
    n: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> list[Load]:
    """The first *n* workers are ended while they load. Returns what each was told to load."""
    orders: list[Load] = []

    def start(order: Load, *callbacks: Callable[..., None]) -> WorkerProcess:
        orders.append(order)
        worker = WorkerProcess(order, *callbacks)
        if len(orders) <= n:
            os.kill(worker.pid, number)
        return worker

    monkeypatch.setattr(supervisor, "WorkerProcess", start)
    return orders


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_at_the_conversion_loads_the_file(
    number: signal.Signals, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = end_first_workers(1, number, monkeypatch)
    with LocalEngine(copy / "m.gguf", options_in(copy)) as engine:
        assert engine.wait_ready(60).library.startswith("llama-cpp-python")
        assert number.name in engine.card.engine_reason
    assert [order.choice.conversion is None for order in orders] == [False, True]
    found = look_up(copy / "m.gguf", options_in(copy)).conversion
    assert found is not None
    assert found.failures is not None
    assert (found.failures.n, found.given_up) == (1, "")


def test_a_conversion_at_which_workers_crash_is_given_up(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made again after each of them, and ended the next one."""
    options = options_in(copy)
    for _ in range(MAX_DEATHS):
        orders = end_first_workers(1, signal.SIGSEGV, monkeypatch)
        with LocalEngine(copy / "m.gguf", options) as engine:
            assert engine.wait_ready(60).library.startswith("llama-cpp-python")
        assert [order.choice.conversion is None for order in orders] == [False, True]
    choice = choose_engine(copy / "m.gguf", options)
    assert (choice.engine, choice.conversion, choice.can_compare) == ("llama", None, False)
    assert "SIGSEGV" in choice.reason


def test_a_conversion_that_ends_its_worker_too_often_is_left_also_by_running_answers(
    copy: Path,
) -> None:
    """The model was not served at all, until a pause was over."""
    options = msgspec.structs.replace(options_in(copy), max_restarts=0)
    with LocalEngine(copy / "m.gguf", options) as engine:
        assert engine.wait_ready(60).library.startswith("onnxruntime")
        events = []
        for event in engine.stream(ask(max_tokens=60, ignore_eos=True)):
            events.append(event)
            if len(events) == 10:
                assert engine.worker_pid is not None
                os.kill(engine.worker_pid, signal.SIGSEGV)
        assert end_of(events).usage.completion_tokens == 60
        assert "SIGSEGV too often" in engine.card.engine_reason
    assert "too often" in choose_engine(copy / "m.gguf", options).reason


def test_a_conversion_that_gives_no_numbers_is_given_up(copy: Path) -> None:
    """The model could not be loaded at all."""
    options, folder = options_in(copy), conversion_in(copy)
    graph = onnx.load(folder / "model.onnx")
    norm = next(each for each in graph.graph.initializer if "norm" in each.name)
    values = numpy_helper.to_array(norm)
    norm.CopyFrom(numpy_helper.from_array(np.full_like(values, np.nan), norm.name))
    onnx.save(graph, folder / "model.onnx")
    record = read_json(folder / RECORD, Conversion)
    assert record is not None
    store = ConversionStore(options.cache_dir)
    store.write_record(msgspec.structs.replace(record, files=describe_files(folder)))
    with LocalEngine(copy / "m.gguf", options) as engine:
        card = engine.wait_ready(60)
        assert card.library.startswith("llama-cpp-python")
        assert any("are not numbers" in warning for warning in card.warnings)
        assert text_of(engine)
    choice = choose_engine(copy / "m.gguf", options)
    assert (choice.engine, choice.conversion, choice.can_compare) == ("llama", None, False)
    assert "are not numbers" in choice.reason


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
