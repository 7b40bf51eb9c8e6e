"""What an export takes of memory: its largest tensor, not the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_models
from tests.tiny_models import CONFIGS

_CONFIG = {
    **CONFIGS["smollm"],
    "vocab_size": 32_768,
    "hidden_size": 512,
    "intermediate_size": 1_536,
    "num_attention_heads": 8,
    "head_dim": 64,
    "num_key_value_heads": 2,
}
"""A table of 67 MB as floats, and layers of 12 MB."""
_LARGEST_BYTES = 32_768 * 512 * 4
_EXPORT = """
import sys
from pathlib import Path
from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.options import ExportOptions

options = ExportOptions(
    weights=sys.argv[3],
    calibration=sys.argv[4],
    # The others take more time, and no more memory.
    eight_bits=("*.[qkv]_proj", "*.mlp.*") if sys.argv[3] == "int4" else (),
    n_ctx=128,
)
export(Path(sys.argv[1]), Path(sys.argv[2]), options, lambda n_done, n_all: None)
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""

_FREE = """
import numpy as np
import psutil
from spillover.quantize.freed_memory import return_large_arrays

return_large_arrays()
del [np.ones(24 << 20, np.uint8)][:]  # glibc then keeps what is smaller
before = psutil.Process().memory_info().rss
arrays, small = [], []
for _ in range(30):
    arrays.append(np.ones(4 << 20, np.uint8))
    small.append(bytes(9_000))
arrays.clear()
print(psutil.Process().memory_info().rss - before)
"""


def model_of(n_layer: int, folder: Path) -> Path:
    """Weights as small numbers of few kinds: what matters is how many."""
    config = {**_CONFIG, "num_hidden_layers": n_layer}
    tiny_models.write(folder, CONFIGS["smollm"])
    (folder / "config.json").write_text(json.dumps(config))
    some = (np.random.RandomState(5).standard_normal(1 << 16) * 0.03).astype(np.float32)
    tensors = {
        name: np.ones(shape, np.float32) if len(shape) == 1 else np.resize(some, shape)
        for name, shape in tiny_models.shapes(config).items()
    }
    tiny_models.write_tokenizer(folder / "tokenizer.json", 32_768)
    tiny_models.write_safetensors(folder / "model.safetensors", tensors, "BF16")
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says the peak")
@pytest.mark.parametrize(
    ("weights", "text", "n_layer"), [("int8", "", 40), ("int4", "abc " * 80, 6)]
)
def test_the_peak_is_bounded_by_the_largest_tensor(
    weights: str, text: str, n_layer: int, tmp_path: Path
) -> None:
    model = model_of(n_layer, tmp_path / "hf")
    arguments = [str(model), str(tmp_path / "out"), weights, text]
    child = [sys.executable, "-c", _EXPORT, *arguments]
    found = subprocess.run(child, check=True, capture_output=True, text=True, timeout=600)
    # The file is mapped: its pages are counted, but the system takes them back when it needs them.
    mapped = (model / "model.safetensors").stat().st_size
    assert int(found.stdout) * 1024 - mapped < 1.3 * _LARGEST_BYTES + (300 << 20)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it is about glibc")
def test_memory_of_large_arrays_goes_back_to_the_system() -> None:
    run = subprocess.run([sys.executable, "-c", _FREE], check=True, stdout=subprocess.PIPE)
    assert int(run.stdout) < 10e6
