"""A GGUF file is converted, compared with what llama.cpp makes of it, and measured."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from spillover.quantize.conversion import compare
from spillover.quantize.conversion.compare import prepare
from spillover.runtime.conversions import record
from spillover.runtime.conversions.choice import choose_engine, comparison_store, decide, look_up
from spillover.runtime.conversions.record import MOST_DIVERGENCE, Fidelity, libraries
from spillover.runtime.conversions.store import ConversionStore, is_intact
from spillover.runtime.options import EngineOptions
from tests.quantize.conversion.preparing import copy_in, silent


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, every_round_counts: None
) -> tuple[Path, EngineOptions]:
    folder = tmp_path_factory.mktemp("prepared")
    path, options = copy_in(folder)
    prepare(path, options, silent, measures=True)
    return path, options


def test_a_quantized_file_is_converted_without_a_loss(
    prepared: tuple[Path, EngineOptions],
) -> None:
    found = look_up(*prepared)
    assert found.conversion is not None
    assert found.conversion.fidelity is not None
    assert found.conversion.fidelity.fault == ""
    assert found.conversion.fidelity.divergence < MOST_DIVERGENCE / 2
    assert found.conversion.fidelity.n_positions > 30
    assert found.comparison is not None
    folder = found.folder(prepared[1])
    assert folder is not None
    assert is_intact(folder)


def test_the_same_file_elsewhere_needs_no_second_conversion(
    prepared: tuple[Path, EngineOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, options = prepared
    copy = Path(shutil.copy(path, tmp_path / "copy.gguf"))
    monkeypatch.setattr(compare, "convert", lambda *_: pytest.fail("it was converted again"))
    prepare(copy, options, silent, measures=True)
    assert look_up(copy, options).conversion == look_up(path, options).conversion


def test_other_threads_are_measured_but_not_converted_again(
    prepared: tuple[Path, EngineOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, options = prepared
    monkeypatch.setattr(compare, "convert", lambda *_: pytest.fail("it was converted again"))
    monkeypatch.setattr(compare, "fidelity_of", lambda *_: pytest.fail("it was compared again"))
    two = msgspec.structs.replace(options, n_threads=2)
    assert look_up(path, two).comparison is None
    prepare(path, two, silent, measures=True)
    assert look_up(path, two).comparison is not None


def test_a_damaged_conversion_is_made_again(tmp_path: Path) -> None:
    path, options = copy_in(tmp_path)
    prepare(path, options, silent, measures=False)
    folder = look_up(path, options).folder(options)
    assert folder is not None
    graph = folder / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert not is_intact(folder)
    prepare(path, options, silent, measures=False)
    assert is_intact(folder)
    assert graph.read_bytes() == whole


def test_a_conversion_that_is_less_true_is_removed_and_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed until others needed its place, and was then made again."""
    path, options = copy_in(tmp_path)
    untrue = Fidelity(divergence=1.0, n_positions=50, libraries=libraries())
    monkeypatch.setattr(compare, "fidelity_of", lambda *_: untrue)
    prepare(path, options, silent, measures=True)
    found = look_up(path, options)
    assert found.conversion is not None
    assert (found.conversion.fidelity, found.folder(options)) == (untrue, None)
    monkeypatch.setattr(compare, "convert", lambda *_: pytest.fail("it was converted again"))
    prepare(path, options, silent, measures=True)
    monkeypatch.undo()
    asked = msgspec.structs.replace(options, engine="onnx")
    prepare(path, asked, silent, measures=False)
    folder = choose_engine(path, asked).conversion
    assert folder is not None
    assert is_intact(folder)


def test_other_libraries_are_compared_again(
    prepared: tuple[Path, EngineOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another version had found of the conversion counted for ever."""
    path, options = prepared
    monkeypatch.setattr(record, "library_version", lambda name: f"another {name}")
    found = msgspec.structs.replace(look_up(path, options), size_bytes=1 << 30)
    assert decide(found, options).can_compare
    assert found.conversion is not None
    assert (found.conversion.fidelity, bool(found.conversion.files)) == (None, True)


def test_what_is_known_can_be_forgotten(tmp_path: Path) -> None:
    path, options = copy_in(tmp_path)
    prepare(path, options, silent, measures=False)
    folder = look_up(path, options).folder(options)
    assert folder is not None
    store = ConversionStore(options.cache_dir)
    store.note_failure(folder, "the worker was ended by SIGSEGV", is_final=True)
    prepare(path, options, silent, measures=False)
    assert look_up(path, options).folder(options) is None
    prepare(path, options, silent, measures=False, again=True)
    found = look_up(path, options).conversion
    assert found is not None
    assert (found.fault, is_intact(folder)) == ("", True)


def test_the_measurement_is_kept_for_this_device_only(
    prepared: tuple[Path, EngineOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, options = prepared
    digest = look_up(path, options).note
    assert digest is not None
    assert digest.digest is not None
    assert comparison_store(digest.digest, options).read() is not None
    monkeypatch.setattr(
        "spillover.runtime.conversions.record.library_version", lambda name: "another"
    )
    assert comparison_store(digest.digest, options).read() is None
