"""What a candidate loses against its reference: readers, measures, and the command."""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import tracemalloc
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from spillover.edge_server import cli
from spillover.models.catalogue import default_model, find
from spillover.quantize.conversion import rates
from spillover.quantize.divergence import compare, divergence
from spillover.quantize.errors import QuantizeError
from spillover.quantize.evaluation.cost import CostOrder, measure_cost
from spillover.quantize.evaluation.evaluate import Evaluation, evaluate
from spillover.quantize.evaluation.loss import Loss, loss_of
from spillover.quantize.evaluation.readers import open_reader
from spillover.quantize.evaluation.shipped_text import NAMES, shipped_text
from spillover.quantize.evaluation.text_reading import chunks_of
from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.runtime.backend import Logits, Tokens
from spillover.runtime.llama.opening.opening import open_gguf
from spillover.runtime.machine.device import OurCores
from spillover.runtime.onnx.session import OnnxSession
from spillover.runtime.options import EngineOptions
from tests import plain_decoder, tiny_bert, tiny_gguf, tiny_models
from tests.onnx_sessions import ragged_logits
from tests.runtime.onnx.graph.real_exports import unpacked
from tests.storyteller import STORY, STORYTELLER
from tests.tiny_models import CONFIGS

GGUF, ONNX = default_model().path, find("storyteller-onnx").path.parent


def silent(what: str, n_done: int, n_all: int) -> None:
    pass


def logits(seed: int, n: int = 40) -> Logits:
    random = np.random.RandomState(seed)
    return np.asarray(random.standard_normal((n, 300)) * 4, np.float32)


def log_softmax(rows: Logits) -> Logits:
    wide = rows.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(-1, keepdims=True)))


def by_definition(reference: Logits, candidate: Logits, targets: Tokens) -> dict[str, float]:
    """The measures in their plainest form."""
    p, q = log_softmax(reference), log_softmax(candidate)
    each = np.arange(len(targets))
    apart = (np.exp(p) * (p - q)).sum(-1)
    ratio = p[each, targets].mean() - q[each, targets].mean()
    delta = np.exp(q[each, targets]) - np.exp(p[each, targets])
    return {
        "divergence": apart.mean(),
        "divergence_median": np.median(apart),
        "divergence_99": np.quantile(apart, 0.99),
        "perplexity": np.exp(-q[each, targets].mean()),
        "perplexity_of_reference": np.exp(-p[each, targets].mean()),
        "perplexity_ratio": np.exp(ratio),
        "same_top": (p.argmax(-1) == q.argmax(-1)).mean(),
        "rms_delta_p": np.sqrt(np.square(delta).mean()),
    }


def check_measures(loss: Loss, wanted: dict[str, float], *, rel: float) -> None:
    found = {name: getattr(loss, name) for name in wanted}
    assert found == pytest.approx(wanted, rel=rel, abs=2e-6)


def test_the_measures_are_those_of_their_definitions() -> None:
    targets = np.random.RandomState(3).randint(0, 300, 40).astype(np.int32)
    reference, candidate = logits(1), logits(1) + logits(2) / np.float32(10)
    loss = loss_of(compare(reference, candidate, targets), "it")
    check_measures(loss, by_definition(reference, candidate, targets), rel=1e-4)
    assert loss.n_positions == 40
    assert 0 < loss.divergence_error < loss.divergence


def test_a_divergence_takes_no_memory_beside_the_logits() -> None:
    """Of a vocabulary of 262,144 tokens it took a gigabyte."""
    wanted, found = (np.resize(logits(seed), (512, 2_048)) for seed in (1, 2))
    tracemalloc.start()
    divergence(wanted, found)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < wanted.nbytes / 2


def test_a_model_loses_nothing_against_itself() -> None:
    loss = loss_of(compare(logits(1), logits(1), np.zeros(40, np.int32)), "it")
    assert (loss.divergence, loss.perplexity_ratio, loss.same_top) == (0.0, 1.0, 1.0)
    assert loss.perplexity_ratio_error == loss.rms_delta_p == 0.0


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_model_without_probabilities_is_named(value: float) -> None:
    broken = logits(2)
    broken[3, 0] = value
    with pytest.raises(QuantizeError, match=r"m\.gguf gives probabilities that are no numbers"):
        loss_of(compare(logits(1), broken, np.zeros(40, np.int32)), "m.gguf")


def test_tokens_that_a_model_excludes_leave_a_number() -> None:
    reference, candidate = logits(1), logits(1)
    reference[:, :10] = candidate[:, :10] = candidate[:, 10] = -np.inf
    assert np.isfinite(divergence(reference, candidate)).all()


@pytest.mark.parametrize("path", [GGUF, ONNX], ids=["gguf", "onnx"])
def test_a_reader_gives_the_logits_of_the_positions_that_are_asked_for(path: Path) -> None:
    with closing(open_reader(path, 1_000)) as reader:
        tokens = reader.tokenize(STORY * 20)[:560]
        whole = reader.read(tokens, 0)
        assert whole.shape == (560, reader.n_vocab)
        for first in (511, 540):  # on both sides of the edge between two calls
            found = reader.read(tokens, first)
            np.testing.assert_allclose(found, whole[first:], atol=0.02)
        # What was read before is gone, and what comes later does not count.
        np.testing.assert_allclose(reader.read(tokens[:60], 50), whole[50:60], atol=0.5)


def test_a_reader_computes_what_the_graph_computes(tmp_path: Path) -> None:
    for interface in ("ragged", "genai"):
        options = ExportOptions(weights="fp32", interface=interface)
        export(STORYTELLER, tmp_path / interface, options, lambda n_done, n_all: None)
    found = []
    for interface in ("ragged", "genai"):
        with closing(open_reader(tmp_path / interface, 512)) as reader:
            tokens = reader.tokenize(STORY)
            found.append(reader.read(tokens, 5))
    wanted = ragged_logits(tmp_path / "ragged" / "model.onnx", tokens.astype(np.int64), [64])[5:]
    for rows in found:
        np.testing.assert_allclose(rows, wanted, atol=1e-3)


def test_a_graph_for_one_new_token_is_read_token_by_token(tmp_path: Path) -> None:
    """It takes more, and computes something else."""
    plain_decoder.write(STORYTELLER, tmp_path / "right")
    plain_decoder.write_orderless(STORYTELLER, tmp_path / "orderless")
    found = []
    for name in ("right", "orderless"):
        with closing(open_reader(tmp_path / name, 512)) as reader:
            found.append(reader.read(reader.tokenize(STORY), 5))
    np.testing.assert_allclose(found[1], found[0], atol=1e-3)


def test_a_graph_that_rounds_tokens_together_is_named_beside_its_numbers(tmp_path: Path) -> None:
    folder = tiny_models.write(tmp_path / "q8", {**CONFIGS["llama"], "vocab_size": 64})
    unpacked("transformers_js/llama-q8", folder)
    settings = json.loads((folder / "tokenizer.json").read_text())
    space = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "never", "split": False}
    (folder / "tokenizer.json").write_text(json.dumps({**settings, "decoder": space}))
    text = STORY.upper() * 4
    found = evaluate(folder, [folder], text, silent, text_name="", n_ctx=16, measures_cost=False)
    assert found.notes != ()
    assert all("q8 rounds its activations with one scale" in note for note in found.notes)


def n_sessions() -> int:
    gc.collect()
    return sum(isinstance(one, OnnxSession) for one in gc.get_objects())


def test_a_closed_reader_holds_no_model() -> None:
    """The models of all groups were in memory together, and while costs were measured."""
    before = n_sessions()
    with closing(open_reader(ONNX, 64)) as reader:
        reader.read(reader.tokenize(STORY), 5)
        assert n_sessions() == before + 1
    assert n_sessions() == before
    assert reader.n_ctx == 64


def test_the_models_read_in_a_process_that_can_be_ended() -> None:
    """Ctrl-C was heard only when the library had read a chunk."""
    before, reading = set(psutil.Process().children()), set[psutil.Process]()

    def stop(what: str, n_done: int, n_all: int) -> None:
        reading.update(set(psutil.Process().children()) - before)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(GGUF, [GGUF], STORY * 6, stop, text_name="", n_ctx=64, measures_cost=False)
    assert reading
    assert not any(one.is_running() for one in reading)


def test_the_second_half_of_each_chunk_is_scored() -> None:
    text, n = STORY * 6, 64
    found = evaluate(GGUF, [ONNX], text, silent, text_name="a story", n_ctx=n, measures_cost=False)
    rows: list[list[Logits]] = []
    for path in (GGUF, ONNX):
        with closing(open_reader(path, n)) as reader:
            tokens = reader.tokenize(text)
            n_chunks = len(tokens) // n
            chunks = [tokens[i * n : (i + 1) * n] for i in range(n_chunks)]
            rows.append([reader.read(chunk, 0)[n // 2 : n - 1] for chunk in chunks])
    assert reader.tokenize("").size == 0, "this model puts nothing in front of a text"
    targets = np.concatenate([chunk[n // 2 + 1 :] for chunk in chunks])
    reference, candidate = (np.concatenate(parts) for parts in rows)
    (only,) = found.candidates
    assert (found.n_chunks, only.loss.n_positions) == (n_chunks, n_chunks * (n // 2 - 1))
    # Kernels differ with the number of rows that are asked for.
    wanted = by_definition(reference, candidate, targets)
    wanted = {name: wanted[name] for name in ("perplexity", "perplexity_of_reference")}
    check_measures(only.loss, wanted, rel=0.02)
    assert only.loss.divergence < 0.05
    assert only.loss.same_top > 0.9


def test_what_a_tokenizer_puts_behind_a_text_does_not_begin_chunks(tmp_path: Path) -> None:
    export(STORYTELLER, tmp_path / "m", ExportOptions(), lambda n_done, n_all: None)
    settings = json.loads((tmp_path / "m" / "tokenizer.json").read_text())
    end = settings["model"]["vocab"]["z"]
    settings["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "z", "type_id": 0}},
        ],
        "pair": [],
        "special_tokens": {"z": {"id": "z", "ids": [end], "tokens": ["z"]}},
    }
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(settings))
    with closing(open_reader(tmp_path / "m", 16)) as reader:
        assert reader.tokenize("").tolist() == [end]
        whole, chunks = reader.tokenize(STORY), chunks_of(reader, STORY)
    assert len(chunks) > 1
    assert np.concatenate(chunks).tolist() == whole[: 16 * len(chunks)].tolist()


def test_the_shipped_text_is_long_and_in_many_scripts() -> None:
    text = shipped_text()
    assert 30_000 <= len(text.encode()) <= 60_000
    assert len(NAMES) == 5
    for sample in ("def ", "User: ", "не", "は", "的", "है", "في", "weiß"):
        assert sample in text


def test_the_command_prints_a_table_and_writes_everything_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(STORY * 3)
    arguments = ["quantize", "eval", str(GGUF), str(ONNX), "--n-ctx", "64"]
    arguments += ["--text", str(tmp_path / "text.txt"), "--json", str(tmp_path / "found.json")]
    assert cli.run(arguments) == 0
    printed = capsys.readouterr().out
    assert "| storyteller-Q8_0 | llama.cpp |" in printed
    found = msgspec.json.decode((tmp_path / "found.json").read_bytes(), type=Evaluation)
    assert f"{found.candidates[0].loss.divergence_median:.5f}" in printed
    assert found.text == "text.txt"
    # Another text of this name, or another model, is told apart.
    assert found.text_digest == hashlib.sha256((STORY * 3).encode()).hexdigest()
    assert found.reference_digest not in ("", found.text_digest)
    cost = found.candidates[0].model.cost
    assert cost is not None
    assert cost.rss_bytes > 10e6
    assert min(cost.rates.prefill, cost.rates.decode_1, cost.rates.decode_4) > 0


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_speed_says_whether_other_programs_lowered_it(
    is_busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OurCores, "free", lambda cores: 0.0 if is_busy else 64.0)
    clock = itertools.count().__next__  # each look at it is a second later
    options = EngineOptions(n_ctx=256, n_kv=1_024, n_parallel=4, n_prefix_cached=0)
    with closing(open_gguf(GGUF, options).backend) as backend:
        found, was_disturbed = rates.measure_rates(backend, clock)
    assert was_disturbed is is_busy
    assert found.decode_4 > 0


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """A model in several files, beside the same one as whole.gguf."""
    folder = tmp_path / "parts"
    folder.mkdir()
    tiny_gguf.write_model(folder / "m.gguf", CONFIGS["llama"], "F16", n_part=12)
    tiny_gguf.write_model(tmp_path / "whole.gguf", CONFIGS["llama"], "F16")
    return sorted(folder.iterdir())


def test_a_model_in_parts_counts_with_all_of_them(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(parts) == 3
    whole, last = tmp_path / "whole.gguf", parts[-1]
    text = "abc " * 99
    found = evaluate(
        last,
        [whole, parts[0]],
        text,
        silent,
        text_name="a text",
        n_ctx=64,
        measures_cost=False,
    )
    n_bytes = sum(part.stat().st_size for part in parts)
    assert n_bytes > whole.stat().st_size
    assert found.reference.size_bytes == n_bytes
    assert found.reference.name == "m"
    assert [one.model.size_bytes for one in found.candidates] == [whole.stat().st_size, n_bytes]
    assert [one.loss.divergence for one in found.candidates] == pytest.approx([0, 0], abs=1e-6)
    monkeypatch.setattr(OurCores, "free", lambda cores: 64.0)
    assert measure_cost(CostOrder(path=last), silent).rates.decode_1 > 0
    # A model of which another part was changed is another model.
    content = bytearray(parts[1].read_bytes())
    content[-1] ^= 1
    parts[1].write_bytes(content)
    other = evaluate(last, [whole], text, silent, text_name="a text", n_ctx=64, measures_cost=False)
    assert other.reference_digest != found.reference_digest


def test_a_missing_part_is_named_before_anything_is_read(
    parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts[1].unlink()
    told = failed(capsys, str(GGUF), str(tmp_path / "whole.gguf"), str(parts[0]))
    assert "00001-of-00003.gguf is one of 3 parts, and m-00002-of-00003.gguf is not" in told


def test_a_result_does_not_replace_what_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tiny_gguf.write_model(tmp_path / "whole.gguf", CONFIGS["llama"])
    content = whole.read_bytes()
    asked = ["quantize", "eval", str(whole), str(whole), "--no-speed", "--json"]
    assert cli.run([*asked, f"{tmp_path}/../{tmp_path.name}/whole.gguf"]) == 2
    assert "would replace" in capsys.readouterr().err
    assert cli.run([*asked, str(tmp_path / "nowhere" / "found.json")]) == 2
    assert whole.read_bytes() == content


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_text_is_named(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text(content)
    assert "is empty" in failed(capsys, str(GGUF), str(GGUF), "--text", str(tmp_path / "text"))


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(["quantize", "eval", *arguments, "--no-speed"]) == 1
    return capsys.readouterr().err


def test_models_that_cannot_be_compared_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = tiny_gguf.write_model(tmp_path / "tiny.gguf", CONFIGS["llama"])
    (tmp_path / "short").write_text("Hello")
    (tmp_path / "text").write_text(STORY * 20)
    short, text = (["--text", str(tmp_path / name)] for name in ("short", "text"))
    assert "one vocabulary" in failed(capsys, str(GGUF), str(tiny), *text)
    assert "longer text" in failed(capsys, str(GGUF), str(ONNX), *short)
    assert "no GGUF file" in failed(capsys, str(GGUF), str(tmp_path / "text"), *text)
    encoder = tiny_bert.write_gguf(tmp_path / "bert.gguf", tiny_bert.weights())
    assert "for embeddings" in failed(capsys, str(GGUF), str(encoder), *text)

    other = tmp_path / "other"
    export(STORYTELLER, other, ExportOptions(), lambda n_done, n_all: None)
    settings = json.loads((other / "tokenizer.json").read_text())
    settings["model"]["merges"] = settings["model"]["merges"][:100]
    (other / "tokenizer.json").write_text(json.dumps(settings))
    assert "other tokens" in failed(capsys, str(ONNX), str(other), *text)
