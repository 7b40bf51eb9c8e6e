"""Which engine serves a GGUF file, by what is known of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from spillover.models.catalogue import find
from spillover.runtime.conversions.choice import (
    MIN_SOURCE_BYTES,
    Findings,
    choose_engine,
    decide,
)
from spillover.runtime.conversions.record import (
    EXPORTER,
    MAX_DEATHS,
    MOST_DIVERGENCE,
    Comparison,
    Conversion,
    EngineRates,
    Fidelity,
    SourceNote,
    StoredFile,
)
from spillover.runtime.machine.llama_trial import NOT_INSTALLED
from spillover.runtime.options import EngineOptions

AUTO = EngineOptions(cache_dir=Path("/cache"))
SLOW = EngineRates(prefill=100, decode_1=40, decode_4=50)
FAST = EngineRates(prefill=200, decode_1=38, decode_4=100)
NOTE = SourceNote(path="/m.gguf", size_bytes=1 << 30, changed_ns=1, digest="a" * 64)
TRUE = Conversion(
    digest="a" * 64,
    exporter=EXPORTER,
    n_ctx=4096,
    files={"model.onnx": StoredFile(size_bytes=1 << 30, crc32=7)},
    fidelity=Fidelity(divergence=0.004, n_positions=60),
)
COMPARED = Findings(
    size_bytes=1 << 30,
    note=NOTE,
    conversion=TRUE,
    comparison=Comparison(llama=SLOW, onnx=FAST),
)
NEW = Findings(size_bytes=1 << 30)


def options(**settings: object) -> EngineOptions:
    return msgspec.structs.replace(AUTO, **settings)


def test_the_faster_one_serves() -> None:
    choice = decide(COMPARED, AUTO)
    assert (choice.engine, choice.can_compare) == ("onnx", False)
    assert choice.conversion == Path("/cache/conversions") / ("a" * 32)
    slower = msgspec.structs.replace(COMPARED, comparison=Comparison(llama=FAST, onnx=SLOW))
    choice = decide(slower, AUTO)
    assert (choice.engine, choice.conversion) == ("llama", None)
    assert "times as fast" in choice.reason


def test_the_owners_number_of_answers_decides_what_faster_means() -> None:
    one = EngineRates(prefill=1000, decode_1=60, decode_4=70)
    many = EngineRates(prefill=1000, decode_1=40, decode_4=100)
    found = msgspec.structs.replace(COMPARED, comparison=Comparison(llama=one, onnx=many))
    engines = [decide(found, options(n_parallel=n)).engine for n in (1, 4, 8, None)]
    assert engines == ["llama", "onnx", "onnx", "onnx"]


def test_a_small_gain_is_not_worth_a_change() -> None:
    little = EngineRates(prefill=102, decode_1=41, decode_4=51)
    found = msgspec.structs.replace(COMPARED, comparison=Comparison(llama=SLOW, onnx=little))
    assert decide(found, AUTO).engine == "llama"


def test_a_new_file_is_served_by_llama_cpp_and_can_be_compared() -> None:
    choice = decide(NEW, AUTO)
    assert (choice.engine, choice.can_compare) == ("llama", True)


@pytest.mark.parametrize(
    "missing", [{"comparison": None}, {"conversion": msgspec.structs.replace(TRUE, fidelity=None)}]
)
def test_a_conversion_that_was_not_compared_is_not_served_unasked(
    missing: dict[str, object],
) -> None:
    choice = decide(msgspec.structs.replace(COMPARED, **missing), AUTO)
    assert (choice.engine, choice.conversion, choice.can_compare) == ("llama", None, True)


@pytest.mark.parametrize(
    "fidelity",
    [
        Fidelity(divergence=MOST_DIVERGENCE * 1.01, n_positions=60),
        Fidelity(divergence=0.0, n_positions=0, difference="its tokenizer differs"),
    ],
)
def test_a_conversion_that_is_less_true_is_served_on_demand_only(fidelity: Fidelity) -> None:
    false = msgspec.structs.replace(TRUE, fidelity=fidelity)
    for comparison in (COMPARED.comparison, None):
        found = msgspec.structs.replace(COMPARED, conversion=false, comparison=comparison)
        choice = decide(found, AUTO)
        assert (choice.engine, choice.reason) == ("llama", fidelity.fault)
        assert not choice.can_compare, "another comparison would find the same"
    asked = decide(found, options(engine="onnx"))
    assert asked.conversion is not None
    assert [fidelity.fault in warning for warning in asked.warnings] == [True]
    removed = msgspec.structs.replace(found, conversion=msgspec.structs.replace(false, files={}))
    assert not decide(removed, AUTO).can_compare
    asked = decide(removed, options(engine="onnx"))
    assert (asked.conversion, asked.can_compare) == (None, True)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"engine": "llama"}, "engine"),
        ({"kv_cache_type": "q8_0"}, "kv_cache_type"),
        ({"pooling": "mean"}, "pooling mean"),
        ({"n_gpu_layers": 5}, "n_gpu_layers"),
        ({"second_layout": "on"}, "second_layout"),
        ({"draft_model": Path("small.gguf")}, "draft_model"),
        ({"deterministic": True}, "deterministic"),
        ({"conversion_cache_mb": 0.0}, "conversion_cache_mb"),
        ({"n_ctx": 4097}, "n_ctx"),
    ],
)
def test_a_setting_that_only_llama_cpp_honours_decides_and_is_named(
    settings: dict[str, object], word: str
) -> None:
    choice = decide(COMPARED, options(**settings))
    assert (choice.engine, choice.can_compare) == ("llama", False)
    assert word in choice.reason
    if word != "engine":
        assert decide(COMPARED, options(**settings, engine="onnx")).engine == "onnx"


def test_short_contexts_of_a_stretched_model_stay_with_llama_cpp() -> None:
    """The conversion has the rotary positions for long ones only."""
    found = msgspec.structs.replace(
        COMPARED, conversion=msgspec.structs.replace(TRUE, n_short=2048)
    )
    assert "LongRoPE" in decide(found, options(n_ctx=2048)).reason
    assert decide(found, options(n_ctx=2049)).engine == "onnx"
    assert decide(found, AUTO).engine == "onnx"


def test_settings_without_an_effect_are_named() -> None:
    asked = decide(COMPARED, options(engine="onnx", second_layout="on", n_gpu_layers=3))
    assert [warning.split()[0] for warning in asked.warnings] == ["n_gpu_layers", "second_layout"]
    as_gguf = decide(NEW, options(execution_provider="cuda"))
    assert [warning.split()[0] for warning in as_gguf.warnings] == ["execution_provider"]
    assert decide(COMPARED, options(execution_provider="cuda")).warnings == ()


def test_with_a_gpu_llama_cpp_stays_unless_the_gpu_is_switched_off() -> None:
    found = msgspec.structs.replace(COMPARED, has_gpu=True)
    assert decide(found, AUTO).reason == "a GPU was found"
    assert decide(found, options(n_gpu_layers=0)).engine == "onnx"


def test_a_conversion_that_does_not_fit_into_memory_is_not_loaded() -> None:
    found = msgspec.structs.replace(COMPARED, free_bytes=1 << 30)
    assert "memory" in decide(found, AUTO).reason


def test_a_conversion_takes_no_more_memory_than_the_model_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spillover.runtime.conversions.choice.look_up", lambda *_: COMPARED)
    assert choose_engine(Path("/m.gguf"), AUTO, 2 << 30).engine == "onnx"
    assert "1024 MiB are free" in choose_engine(Path("/m.gguf"), AUTO, 1 << 30).reason


def test_a_small_file_is_left_as_it_is() -> None:
    found = msgspec.structs.replace(NEW, size_bytes=MIN_SOURCE_BYTES - 1)
    choice = decide(found, AUTO)
    assert (choice.engine, choice.can_compare) == ("llama", False)


def refused(**facts: object) -> Findings:
    note = msgspec.structs.replace(NOTE, **facts)
    return Findings(size_bytes=1 << 30, note=note)


def test_what_was_refused_is_not_tried_again() -> None:
    choice = decide(refused(refusal="it is a mamba"), AUTO)
    assert (choice.reason, choice.can_compare) == ("it is a mamba", False)


def test_a_file_that_ends_every_try_is_given_up() -> None:
    assert decide(refused(n_died=MAX_DEATHS - 1), AUTO).can_compare
    given_up = refused(n_died=MAX_DEATHS)
    choice = decide(given_up, AUTO)
    assert not choice.can_compare
    assert f"{MAX_DEATHS} tries" in choice.reason
    assert "--again" in choice.reason


def test_a_conversion_that_ends_every_comparison_is_given_up() -> None:
    """It was compared again at each start, because it was there."""
    note = msgspec.structs.replace(NOTE, n_died=MAX_DEATHS)
    unchecked = msgspec.structs.replace(TRUE, fidelity=None)
    found = Findings(size_bytes=1 << 30, note=note, conversion=unchecked)
    choice = decide(found, AUTO)
    assert (choice.engine, choice.can_compare) == ("llama", False)
    assert f"{MAX_DEATHS} tries" in choice.reason
    compared = msgspec.structs.replace(COMPARED, note=note)
    assert decide(compared, AUTO).engine == "onnx", "it was before"
    asked = decide(found, options(engine="onnx"))
    assert (asked.engine, asked.reason) == ("onnx", "engine is onnx")
    assert asked.conversion is not None


def test_a_conversion_that_no_worker_could_use_is_not_served_even_on_demand() -> None:
    broken = TRUE.failed("the worker was ended by SIGSEGV", is_final=True)
    found = msgspec.structs.replace(COMPARED, conversion=msgspec.structs.replace(broken, files={}))
    choice = decide(found, AUTO)
    assert (choice.engine, choice.conversion, choice.can_compare) == ("llama", None, False)
    assert "SIGSEGV" in choice.reason
    asked = decide(found, options(engine="onnx"))
    assert (asked.engine, asked.conversion, asked.can_compare) == ("llama", None, False)
    assert ["SIGSEGV" in warning for warning in asked.warnings] == [True]
    alone = decide(msgspec.structs.replace(found, llama_problem=NOT_INSTALLED), AUTO)
    assert (alone.engine, alone.conversion, alone.can_compare) == ("onnx", None, False)
    assert "SIGSEGV" in alone.reason


def test_without_llama_cpp_any_conversion_serves() -> None:
    unchecked = msgspec.structs.replace(TRUE, fidelity=None)
    found = msgspec.structs.replace(COMPARED, conversion=unchecked, llama_problem=NOT_INSTALLED)
    choice = decide(found, AUTO)
    assert choice.conversion is not None
    assert ["not compared" in warning for warning in choice.warnings] == [True]
    first = decide(msgspec.structs.replace(NEW, llama_problem=NOT_INSTALLED), AUTO)
    assert (first.engine, first.conversion, first.can_compare) == ("onnx", None, True)


def test_an_onnx_model_has_one_engine(tmp_path: Path) -> None:
    path = Path(find("storyteller-onnx").path)
    choice = choose_engine(path, EngineOptions(cache_dir=tmp_path))
    assert (choice.engine, choice.conversion, choice.can_compare) == ("onnx", None, False)
