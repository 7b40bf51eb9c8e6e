"""What each kind of exported weights loses:  python -m tests.benchmarks.weights_kld

Mean Kullback-Leibler divergence of the bundled storyteller's logits from those of its fp32 export,
over stories that the fp32 export tells itself (sampled at temperature 0.7, with a fixed seed).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from spillover.models.catalogue import default_model
from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.options import ExportOptions
from tests.onnx_sessions import Logits, divergence, ragged_logits, sampled
from tests.storyteller import STORYTELLER

NAMES = ("a fox named Ruby", "a dog named Max", "a mouse named Pip", "an owl named Ada")
N_TOKENS = 200
KINDS: dict[str, tuple[Path, ExportOptions]] = {
    "fp16": (STORYTELLER, ExportOptions(weights="fp16")),
    "int8": (STORYTELLER, ExportOptions(weights="int8")),
    "int8 from Q8_0": (default_model().path, ExportOptions(weights="int8")),
    "int4": (STORYTELLER, ExportOptions()),
    "int4 --head-bits 4": (STORYTELLER, ExportOptions(head_bits=4)),
    "int4 --symmetric": (STORYTELLER, ExportOptions(is_symmetric=True)),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        reference = _exported(folder / "fp32", STORYTELLER, ExportOptions(weights="fp32"))
        texts = [_story(reference, name) for name in NAMES]
        wanted = [_logits(reference, text) for text in texts]
        print(f"{sum(map(len, texts))} tokens")
        print("| weights | model.onnx | KLD | same first token |")
        print("|---|---|---|---|")
        for name, (source, options) in KINDS.items():
            model = _exported(folder / name.replace(" ", "_"), source, options)
            found = np.concatenate([_logits(model, text) for text in texts])
            same = (np.concatenate(wanted).argmax(-1) == found.argmax(-1)).mean()
            loss = divergence(np.concatenate(wanted), found)
            print(f"| {name} | {model.stat().st_size / 1e6:.1f} MB | {loss:.5f} | {same:.1%} |")


def _exported(target: Path, source: Path, options: ExportOptions) -> Path:
    export(source, target, options, lambda n_done, n_all: None)
    return target / "model.onnx"


def _story(model: Path, hero: str) -> npt.NDArray[np.int64]:
    tokenizer = Tokenizer.from_file(str(STORYTELLER / "tokenizer.json"))
    prompt = f"<|im_start|>user\nTell me a story about {hero}.<|im_end|>\n<|im_start|>assistant\n"
    ids = np.asarray(tokenizer.encode(prompt).ids, np.int64)
    return sampled(model, ids, N_TOKENS, temperature=0.7, seed=1)


def _logits(model: Path, ids: npt.NDArray[np.int64]) -> Logits:
    return ragged_logits(model, ids, [128, 128, 128], n_ctx=384)


if __name__ == "__main__":
    main()
