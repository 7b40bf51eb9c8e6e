"""python -m tests.benchmarks.two_engines MODEL.gguf [--repeat N]

One GGUF file on both engines, side by side, with the quality beside every speed.

Each form of the file is judged on English documentation against llama.cpp's own logits: perplexity,
Kullback-Leibler divergence in nats, and the share of positions with the same likeliest token.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spillover.quantize.conversion.compare import prepare
from spillover.quantize.conversion.errors import NotNow
from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.runtime.backend import Backend, Rows, Tokens
from spillover.runtime.conversions.choice import look_up
from spillover.runtime.llama.opening.opening import open_gguf
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.onnx.opening import open_onnx
from spillover.runtime.options import EngineOptions
from tests.benchmarks.__main__ import Figures, engine_rate

TEXT = Path(__file__).parent.parent.parent / "docs" / "handoff-quality.md"
N_TOKENS = 512
STREAMS = (1, 4, 8)

LogProbs = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    args, figures = parser.parse_args(), Figures()
    with tempfile.TemporaryDirectory() as scratch:
        forms = _forms(args.model, Path(scratch))
        _judge(args.model, forms, figures)
        figures.report()
        _measure(args.model, forms, Path(scratch), figures, args.repeat)
        figures.report()


def _forms(model: Path, scratch: Path) -> dict[str, Path]:
    """The file's conversion as it would be served, and one in 4 bits that never is."""
    options = EngineOptions(cache_dir=scratch)
    try:
        prepare(model, options, lambda what, n_done, n_all: None, measures=True)
    except NotNow as error:
        print(error)
    folder = look_up(model, options).folder(options)
    assert folder is not None, "the file can be converted"
    export(model, scratch / "int4", ExportOptions(weights="int4"), lambda n_done, n_all: None)
    return {"ONNX": folder, "ONNX int4": scratch / "int4"}


def _judge(model: Path, forms: dict[str, Path], figures: Figures) -> None:
    options = EngineOptions(n_ctx=N_TOKENS, n_kv=N_TOKENS, n_parallel=1, n_prefix_cached=0)
    with closing(open_gguf(model, options).backend) as backend:
        tokens = backend.tokenize(TEXT.read_text("utf-8"), add_special=True, parse_special=False)
        tokens = tokens[:N_TOKENS]
        wanted = _log_probs(backend, tokens)
    figures.add("engines/llama.cpp/perplexity", _perplexity(wanted, tokens))
    for name, folder in forms.items():
        with closing(open_onnx(folder, options).backend) as backend:
            found = _log_probs(backend, tokens)
        divergence = (np.exp(wanted) * (wanted - found)).sum(-1).mean()
        same = (wanted.argmax(-1) == found.argmax(-1)).mean()
        figures.add(f"engines/{name}/perplexity", _perplexity(found, tokens))
        figures.add(f"engines/{name}/KL divergence", float(divergence))
        figures.add(f"engines/{name}/same top token", float(same))


def _log_probs(backend: Backend, tokens: Tokens) -> LogProbs:
    """(positions, n_vocab), one position per call, as an answer is written."""
    rows = np.empty((len(tokens), backend.info.n_vocab), np.float32)
    for i in range(len(tokens)):
        backend.decode([Rows(0, i, tokens[i : i + 1], True)])
        logits = backend.logits(0).astype(np.float64)
        shifted = logits - logits.max()
        rows[i] = shifted - np.log(np.exp(shifted).sum())
    return rows


def _perplexity(log_probs: LogProbs, tokens: Tokens) -> float:
    said = log_probs[np.arange(len(tokens) - 1), tokens[1:]]
    return float(np.exp(-said.astype(np.float64).mean()))


def _measure(
    model: Path, forms: dict[str, Path], scratch: Path, figures: Figures, repeat: int
) -> None:
    """Tokens per second of whole engines, in turns."""
    options = EngineOptions(
        n_ctx=1024, n_kv=8192, n_parallel=max(STREAMS), cache_dir=scratch, engine="llama"
    )
    onnx = EngineOptions(n_ctx=1024, n_kv=8192, n_parallel=max(STREAMS), cache_dir=scratch)
    with ExitStack() as stack:
        engines = {"llama.cpp": stack.enter_context(LocalEngine(model, options))}
        for name, folder in forms.items():
            engines[name] = stack.enter_context(LocalEngine(folder, onnx))
        for local in engines.values():
            local.wait_ready()
        time.sleep(20)  # each measures its slices once
        for round_ in range(repeat):
            for n in STREAMS:
                first = {
                    name: engine_rate(local, n, 100 * round_ + 10 * n, 48)
                    for name, local in engines.items()
                }
                for name, found in first.items():
                    figures.add(f"engines/{name}/{n} streams tok/s", found)
                    figures.add(f"engines/{name}/{n} streams ratio", found / first["llama.cpp"])


if __name__ == "__main__":
    main()
