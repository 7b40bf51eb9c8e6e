"""Graphs that other programs made of tiny models, as they are found on the hub.

optimum/          optimum-onnx 0.1.0 with transformers 4.57.6, text-generation-with-past
transformers_js/  of optimum's Llama, by onnxruntime 1.32.0's tools as transformers.js uses them
torch/            torch 2.14.1's exporter (dynamo) with transformers 5.24.0, opsets 18 and 23
genai/            onnxruntime-genai 0.18.0's model builder, int4 for the CPU, weights put inside
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import onnx

HERE = Path(__file__).parent
NAMES = sorted(f"{path.parent.name}/{path.name[:-8]}" for path in HERE.glob("*/*.onnx.gz"))
IDS = np.random.RandomState(5).randint(2, 64, 40).astype(np.int64)


def unpacked(name: str, folder: Path) -> Path:
    """The graph as a file in *folder*."""
    path = folder / "model.onnx"
    path.write_bytes(gzip.decompress((HERE / f"{name}.onnx.gz").read_bytes()))
    return path


def loaded(name: str) -> onnx.ModelProto:
    return onnx.load_model_from_string(gzip.decompress((HERE / f"{name}.onnx.gz").read_bytes()))
