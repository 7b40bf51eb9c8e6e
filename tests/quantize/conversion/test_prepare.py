"""A GGUF file is converted, compared with what llama.cpp makes of it, and measured."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from spillover.models.catalogue import default_model
from spillover.models.file_lock import try_lock
from spillover.quantize.conversion import compare, convert, rates
from spillover.quantize.conversion.compare import prepare
from spillover.quantize.conversion.errors import NotNow
from spillover.quantize.conversion.fidelity import fidelity_of, logits_divergence
from spillover.quantize.conversion.weights import weights_difference
from spillover.quantize.errors import QuantizeError
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.export import Exported, export, open_source
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.runtime.backend import Backend, Logits, Rows
from spillover.runtime.conversions import record
from spillover.runtime.conversions.choice import (
    choose_engine,
    comparison_store,
    decide,
    look_up,
)
from spillover.runtime.conversions.record import (
    MAX_DEATHS,
    MOST_DIVERGENCE,
    Fidelity,
    libraries,
)
from spillover.runtime.conversions.store import ConversionStore, is_intact
from spillover.runtime.errors import ModelError
from spillover.runtime.llama.opening.opening import open_gguf
from spillover.runtime.onnx.opening import open_onnx
from spillover.runtime.options import EngineOptions
from tests import tiny_gguf, tiny_models
from tests.gguf_edit import with_values

BUNDLED = Path(default_model().path)
SMALL = EngineOptions(
    n_ctx=1024, n_kv=4096, n_parallel=4, n_prefix_cached=0, n_threads=1, adapt_threads=False
)


@pytest.fixture(autouse=True, scope="module")
def every_round_counts() -> Iterator[None]:
    """These tests run beside others, and want any figures at all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rates, "SLACK_CORES", 1_000.0)
        yield


def silent(what: str, n_done: int, n_all: int) -> None:
    pass


def options_in(folder: Path, **settings: object) -> EngineOptions:
    options = EngineOptions(cache_dir=folder / "cache", n_threads=1)
    return msgspec.structs.replace(options, **settings)


def everything_in(store: ConversionStore) -> set[str]:
    return {path.name for path in store.folder.iterdir()} - {"lock", "sources"}


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, every_round_counts: None
) -> tuple[Path, EngineOptions]:
    folder = tmp_path_factory.mktemp("prepared")
    path = Path(shutil.copy(BUNDLED, folder / "m.gguf"))
    prepare(path, options_in(folder), silent, measures=True)
    return path, options_in(folder)


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
    path, options = Path(shutil.copy(BUNDLED, tmp_path / "m.gguf")), options_in(tmp_path)
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


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "F16"])
def test_every_kind_of_weights_is_as_true_as_the_file(kind: str, tmp_path: Path) -> None:
    """Random weights exaggerate what rounding costs, so that only exact forms are near."""
    path = tiny_gguf.write_model(
        tmp_path / "m.gguf", tiny_models.CONFIGS["llama"], kind, merges=[("a", "b")]
    )
    options = options_in(tmp_path)
    prepare(path, options, silent, measures=False)
    conversion = look_up(path, options).conversion
    assert conversion is not None
    assert conversion.fidelity is not None
    assert conversion.fidelity.difference == ""
    assert conversion.fidelity.divergence < 0.05


@pytest.fixture(scope="module")
def as_gguf() -> Iterator[Backend]:
    backend = open_gguf(BUNDLED, SMALL).backend
    yield backend
    backend.close()


def test_coarser_weights_are_told_apart(as_gguf: Backend, tmp_path: Path) -> None:
    found = {}
    for name, options in (
        ("exact", ExportOptions(weights="faithful")),
        ("coarse", ExportOptions(weights="int4", head_bits=4)),
    ):
        export(BUNDLED, tmp_path / name, options, lambda n, n_all: None)
        backend = open_onnx(tmp_path / name, SMALL).backend
        found[name], n_positions = logits_divergence(as_gguf, backend)
        assert n_positions > 30
        for each in (as_gguf, backend):  # both are left empty
            each.decode([Rows(0, 0, np.zeros(1, np.int32), True)])
            each.keep(0, 0)
        backend.close()
    assert found["coarse"] > 5 * found["exact"]


class WrongTogether:
    """A backend that is wrong about all but the first of several sequences in one call."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def logits(self, output: int) -> Logits:
        logits = self._backend.logits(output)
        return logits[::-1] if output else logits


def test_several_sequences_in_one_call_are_compared_too(as_gguf: Backend, tmp_path: Path) -> None:
    """Only one was, although both libraries have other kernels for many rows."""
    export(BUNDLED, tmp_path / "onnx", ExportOptions(weights="faithful"), lambda n, n_all: None)
    with closing(open_onnx(tmp_path / "onnx", SMALL).backend) as backend:
        wrong = cast(Backend, WrongTogether(backend))
        assert fidelity_of(as_gguf, backend).fault == ""
        assert "its logits differ" in fidelity_of(as_gguf, wrong).fault


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("file", "values", "word"),
    [
        ("tokenizer_config.json", {"add_bos_token": True}, "begin with BOS"),
        ("tokenizer_config.json", {"chat_template": "{{ messages }}"}, "the chat template"),
        ("tokenizer_config.json", {"eos_token": "dog"}, "the EOS token"),
        ("generation_config.json", {"eos_token_id": 777}, "token 777 ends an answer"),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "cuts the text"),
    ],
)
def test_another_tokenizer_is_told_apart(
    file: str, values: dict[str, object], word: str, as_gguf: Backend, tmp_path: Path
) -> None:
    export(BUNDLED, tmp_path / "onnx", ExportOptions(), lambda n, n_all: None)
    edit(tmp_path / "onnx" / file, **values)
    backend = open_onnx(tmp_path / "onnx", SMALL).backend
    assert word in fidelity_of(as_gguf, backend).fault
    backend.close()


Tensors = dict[str, onnx.TensorProto]


def put(proto: onnx.TensorProto, values: Any) -> None:
    proto.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), proto.name))


def swap_layers(tensors: Tensors) -> None:
    for name, proto in tensors.items():
        if name.startswith("layers.1."):
            other = tensors[name.replace("layers.1.", "layers.2.")]
            one, two = numpy_helper.to_array(proto), numpy_helper.to_array(other)
            put(proto, two)
            put(other, one)


def double_a_scale(tensors: Tensors) -> None:
    scales = numpy_helper.to_array(tensors["layers.1.up.scales.half"]).copy()
    scales[7, 1] *= 2
    put(tensors["layers.1.up.scales.half"], scales)


def turn_a_bit(tensors: Tensors) -> None:
    blocks = numpy_helper.to_array(tensors["embedding.blocks"]).copy()
    blocks[100, 0, 5] ^= 16
    put(tensors["embedding.blocks"], blocks)


def change_a_norm(tensors: Tensors) -> None:
    weight = numpy_helper.to_array(tensors["norm.weight"]).copy()
    weight[3] = 0
    put(tensors["norm.weight"], weight)


def change(folder: Path, damage: Callable[[Tensors], None]) -> None:
    model = onnx.load(folder / "model.onnx")
    damage({proto.name: proto for proto in model.graph.initializer})
    onnx.save(model, folder / "model.onnx")


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (swap_layers, "layers.1."),
        (double_a_scale, "layers.1.mlp.up_proj.weight"),
        (turn_a_bit, "embed_tokens.weight"),
        (change_a_norm, "norm.weight"),
    ],
)
def test_a_conversion_with_one_wrong_tensor_is_not_used(
    damage: Callable[[Tensors], None],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The logits of a text tell of the first one only."""
    path, options = Path(shutil.copy(BUNDLED, tmp_path / "m.gguf")), options_in(tmp_path)

    def damaged(*arguments: Any) -> Exported:
        exported = export(*arguments)
        change(exported.folder, damage)
        return exported

    monkeypatch.setattr(convert, "export", damaged)
    with pytest.raises(ExportError, match=f"its {name}.* is not that of the file"):
        prepare(path, options, silent, measures=False)
    assert everything_in(ConversionStore(options.cache_dir)) == set()
    note = look_up(path, options).note
    assert note is not None
    assert "is not that of the file" in note.refusal


def test_swapped_layers_show_in_the_logits(as_gguf: Backend, tmp_path: Path) -> None:
    export(BUNDLED, tmp_path / "onnx", ExportOptions(), lambda n, n_all: None)
    change(tmp_path / "onnx", swap_layers)
    with closing(open_onnx(tmp_path / "onnx", SMALL).backend) as backend:
        assert logits_divergence(as_gguf, backend)[0] > MOST_DIVERGENCE


@pytest.mark.parametrize("config", sorted(tiny_models.CONFIGS))
def test_the_weights_of_every_family_are_found(config: str, tmp_path: Path) -> None:
    path = tiny_gguf.write_model(tmp_path / "m.gguf", tiny_models.CONFIGS[config], "F16")
    export(path, tmp_path / "onnx", ExportOptions(weights="faithful"), lambda n, n_all: None)
    source = SplitSource(open_source(path))
    assert weights_difference(source, tmp_path / "onnx") == ""
    change(tmp_path / "onnx", lambda tensors: put(tensors["norm.weight"], np.zeros(64, "f4")))
    assert "norm.weight" in weights_difference(source, tmp_path / "onnx")


def test_a_window_that_is_longer_than_the_text_is_compared_too(tmp_path: Path) -> None:
    """Whatever happened beyond it was not seen."""
    config = {**tiny_models.CONFIGS["gemma3"], "sliding_window": 400}
    path = tiny_gguf.write_model(
        tmp_path / "m.gguf", {**config, "max_position_embeddings": 1024}, "Q8_0"
    )
    export(path, tmp_path / "onnx", ExportOptions(weights="faithful"), lambda n, n_all: None)
    found = []
    with closing(open_gguf(path, SMALL).backend) as llama:
        for is_right in (True, False):
            model = onnx.load(tmp_path / "onnx" / "model.onnx")
            for node in model.graph.node:
                for attribute in node.attribute:
                    if attribute.name == "local_window_size" and attribute.i > 0 and not is_right:
                        attribute.i = -1
            onnx.save(model, tmp_path / "onnx" / "model.onnx")
            with closing(open_onnx(tmp_path / "onnx", SMALL).backend) as backend:
                found.append(logits_divergence(llama, backend, 400)[0])
    assert found[1] > 2 * found[0]


def test_a_model_that_was_stretched_far_is_compared_as_it_is_served(tmp_path: Path) -> None:
    """llama.cpp was asked for fewer tokens than the model was first trained for, and had its other
    rotary positions (LongRoPE)."""
    config = {
        **tiny_models.CONFIGS["phi3-long"],
        "original_max_position_embeddings": 5_000,
        "max_position_embeddings": 8_192,
    }
    path, options = tiny_gguf.write_model(tmp_path / "m.gguf", config, "Q8_0"), options_in(tmp_path)
    prepare(path, options, silent, measures=False)
    conversion = look_up(path, options).conversion
    assert conversion is not None
    assert conversion.fidelity is not None
    assert (conversion.n_short, conversion.fidelity.difference) == (5_000, "")
    assert conversion.fidelity.divergence < MOST_DIVERGENCE


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
    path, options = Path(shutil.copy(BUNDLED, tmp_path / "m.gguf")), options_in(tmp_path)

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


def test_a_conversion_that_is_less_true_is_removed_and_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed until others needed its place, and was then made again."""
    path, options = Path(shutil.copy(BUNDLED, tmp_path / "m.gguf")), options_in(tmp_path)
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


@pytest.mark.parametrize("error", [MemoryError(), ValueError("a defect")])
def test_what_nobody_foresaw_is_not_tried_for_ever(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start tried again."""
    path, options = Path(shutil.copy(BUNDLED, tmp_path / "m.gguf")), options_in(tmp_path)

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


def test_what_is_known_can_be_forgotten(tmp_path: Path) -> None:
    path, options = Path(shutil.copy(BUNDLED, tmp_path / "m.gguf")), options_in(tmp_path)
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


def replace_file(path: Path) -> None:
    other = path.with_name("other.gguf")
    other.write_bytes(path.read_bytes() + b" ")
    other.replace(path)


def test_a_file_that_is_replaced_meanwhile_gets_no_other_files_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made of the new file was kept as that of the first one."""
    path, options = Path(shutil.copy(BUNDLED, tmp_path / "m.gguf")), options_in(tmp_path)

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
    path, options = Path(shutil.copy(BUNDLED, tmp_path / "m.gguf")), options_in(tmp_path)
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
    path, options = Path(shutil.copy(BUNDLED, tmp_path / "m.gguf")), options_in(tmp_path)
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
    path, options = Path(shutil.copy(BUNDLED, tmp_path / "m.gguf")), options_in(tmp_path)
    tight = msgspec.structs.replace(options, conversion_cache_mb=5.0)
    with pytest.raises(NotNow, match="conversion_cache_mb"):
        prepare(path, tight, silent, measures=True)
    assert everything_in(ConversionStore(options.cache_dir)) == set()
    note = look_up(path, options).note
    assert note is not None
    assert (note.refusal, note.n_died) == ("", 0), "with another limit it may work"


def test_a_full_disk_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, options = Path(shutil.copy(BUNDLED, tmp_path / "m.gguf")), options_in(tmp_path)
    monkeypatch.setattr(convert, "FREE_DISK_BYTES", shutil.disk_usage(tmp_path).free)
    with pytest.raises(NotNow, match="free some space"):
        prepare(path, options, silent, measures=True)


def test_a_disk_that_fills_up_does_not_make_a_file_unfit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was remembered as one that cannot be converted, also once there was room again."""
    path, options = Path(shutil.copy(BUNDLED, tmp_path / "m.gguf")), options_in(tmp_path)

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
    path, options = Path(shutil.copy(BUNDLED, tmp_path / "m.gguf")), options_in(tmp_path)
    store = ConversionStore(options.cache_dir)
    with try_lock(store.lock), pytest.raises(NotNow, match="another process"):
        prepare(path, options, silent, measures=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), OSError(28, "full")])
def test_what_is_stopped_leaves_nothing_and_counts_as_no_crash(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, options = Path(shutil.copy(BUNDLED, tmp_path / "m.gguf")), options_in(tmp_path)

    def stop(folder: Path) -> None:
        raise error

    monkeypatch.setattr(convert, "describe_files", stop)
    with pytest.raises(type(error)):
        prepare(path, options, silent, measures=True)
    assert everything_in(ConversionStore(options.cache_dir)) == set()
    note = look_up(path, options).note
    assert note is not None
    assert note.n_died == 0


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
