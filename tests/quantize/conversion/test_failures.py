"""What cannot be converted is remembered; what failed for another reason is tried again."""

from __future__ import annotations

import errno
import hashlib
import shutil
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest

from spillover.models.file_lock import try_lock
from spillover.quantize.conversion import compare, convert
from spillover.quantize.conversion.compare import prepare
from spillover.quantize.conversion.errors import NotNow
from spillover.quantize.conversion.fidelity import fidelity_of
from spillover.quantize.errors import QuantizeError
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.export import Exported, export
from spillover.runtime.backend import Backend
from spillover.runtime.conversions.choice import choose_engine, decide, look_up
from spillover.runtime.conversions.record import MAX_DEATHS, Fidelity
from spillover.runtime.conversions.store import ConversionStore
from spillover.runtime.errors import ModelError
from tests.gguf_edit import with_values
from tests.quantize.conversion.preparing import BUNDLED, copy_in, everything_in, options_in, silent


def test_what_cannot_be_converted_is_remembered_with_its_reason(tmp_path: Path) -> None:
    other = {"general.architecture": "mamba"}
    path, options = with_values(BUNDLED, tmp_path / "m.gguf", other), options_in(tmp_path)
    with pytest.raises(ExportError, match="'mamba' is not supported"):
        prepare(path, options, silent, measures=True)
    asked = msgspec.structs.replace(options, engine="onnx")
    choice = choose_engine(path, asked)
    assert "'mamba' is not supported" in choice.reason
    assert not choice.can_compare


def test_a_conversion_that_does_not_load_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ONNX Runtime may lack an operator, such as 8-bit products on ARM before 1.23."""
    path, options = copy_in(tmp_path)

    def refuse(*_: object) -> Backend:
        raise ModelError("there is no kernel for MatMulNBits")

    monkeypatch.setattr(compare, "_onnx", refuse)
    prepare(path, options, silent, measures=True)
    found = look_up(path, options)
    assert found.conversion is not None
    large = msgspec.structs.replace(found, size_bytes=1 << 30)
    choice = decide(large, options)
    assert (choice.engine, choice.can_compare) == ("llama", False)
    assert "there is no kernel for MatMulNBits" in choice.reason


@pytest.mark.parametrize("error", [MemoryError(), ValueError("a defect")])
def test_what_nobody_foresaw_is_not_tried_for_ever(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start tried again."""
    path, options = copy_in(tmp_path)

    def fail(folder: Path) -> None:
        raise error

    monkeypatch.setattr(convert, "describe_files", fail)
    for _ in range(MAX_DEATHS):
        found = msgspec.structs.replace(look_up(path, options), size_bytes=1 << 30)
        assert decide(found, options).can_compare
        with pytest.raises(type(error)):
            prepare(path, options, silent, measures=True)
    found = msgspec.structs.replace(look_up(path, options), size_bytes=1 << 30)
    assert not decide(found, options).can_compare
    assert everything_in(ConversionStore(options.cache_dir)) == set()


def replace_file(path: Path) -> None:
    other = path.with_name("other.gguf")
    other.write_bytes(path.read_bytes() + b" ")
    other.replace(path)


def test_a_file_that_is_replaced_meanwhile_gets_no_other_files_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made of the new file was kept as that of the first one."""
    path, options = copy_in(tmp_path)

    def replacing(*arguments: Any) -> Exported:
        replace_file(path)
        return export(*arguments)

    monkeypatch.setattr(convert, "export", replacing)
    with pytest.raises(NotNow, match="was changed meanwhile"):
        prepare(path, options, silent, measures=True)
    assert everything_in(ConversionStore(options.cache_dir)) == set()


def test_a_file_that_is_replaced_while_it_is_compared_is_not_judged_by_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, options = copy_in(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def replacing(llama: Backend, onnx: Backend, window: int) -> Fidelity:
        replace_file(path)
        return fidelity_of(llama, onnx, window)

    monkeypatch.setattr(compare, "fidelity_of", replacing)
    with pytest.raises(NotNow, match="was changed meanwhile"):
        prepare(path, options, silent, measures=True)
    found = ConversionStore(options.cache_dir).find(digest)
    assert found is not None
    assert found.fidelity is None


def test_what_was_made_of_a_files_last_content_goes(tmp_path: Path) -> None:
    path, options = copy_in(tmp_path)
    prepare(path, options, silent, measures=False)
    first = everything_in(ConversionStore(options.cache_dir))
    replace_file(path)
    prepare(path, options, silent, measures=False)
    second = everything_in(ConversionStore(options.cache_dir))
    assert (len(first), len(second)) == (1, 1)
    assert first != second


@pytest.mark.parametrize("n_bytes", [0, 3, 40, 4_000, 60_000])
def test_a_cut_file_is_refused_before_any_library_sees_it(
    n_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, options = tmp_path / "m.gguf", options_in(tmp_path)
    path.write_bytes(BUNDLED.read_bytes()[:n_bytes])
    monkeypatch.setattr(compare, "_llama", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(ExportError):
        prepare(path, options, silent, measures=True)
    assert everything_in(ConversionStore(options.cache_dir)) == set()


def test_a_limit_of_the_cache_is_kept(tmp_path: Path) -> None:
    path, options = copy_in(tmp_path)
    tight = msgspec.structs.replace(options, conversion_cache_mb=5.0)
    with pytest.raises(NotNow, match="conversion_cache_mb"):
        prepare(path, tight, silent, measures=True)
    assert everything_in(ConversionStore(options.cache_dir)) == set()
    note = look_up(path, options).note
    assert note is not None
    assert (note.refusal, note.n_died) == ("", 0), "with another limit it may work"


def test_a_full_disk_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, options = copy_in(tmp_path)
    monkeypatch.setattr(convert, "FREE_DISK_BYTES", shutil.disk_usage(tmp_path).free)
    with pytest.raises(NotNow, match="free some space"):
        prepare(path, options, silent, measures=True)


def test_a_disk_that_fills_up_does_not_make_a_file_unfit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was remembered as one that cannot be converted, also once there was room again."""
    path, options = copy_in(tmp_path)

    def fill(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx, "save_model", fill)
    with pytest.raises(QuantizeError, match="disk is full"):
        prepare(path, options, silent, measures=True)
    note = look_up(path, options).note
    assert note is not None
    assert (note.refusal, note.n_died) == ("", 0)
    assert everything_in(ConversionStore(options.cache_dir)) == set()


def test_two_do_not_convert_at_once(tmp_path: Path) -> None:
    path, options = copy_in(tmp_path)
    store = ConversionStore(options.cache_dir)
    with try_lock(store.lock), pytest.raises(NotNow, match="another process"):
        prepare(path, options, silent, measures=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), OSError(28, "full")])
def test_what_is_stopped_leaves_nothing_and_counts_as_no_crash(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, options = copy_in(tmp_path)

    def stop(folder: Path) -> None:
        raise error

    monkeypatch.setattr(convert, "describe_files", stop)
    with pytest.raises(type(error)):
        prepare(path, options, silent, measures=True)
    assert everything_in(ConversionStore(options.cache_dir)) == set()
    note = look_up(path, options).note
    assert note is not None
    assert note.n_died == 0
