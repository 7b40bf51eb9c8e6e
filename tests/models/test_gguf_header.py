"""The check of a model file before native code sees it."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from spillover.models.catalogue import default_model
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import read_header

BUNDLED = Path(default_model().path)


def gguf(body: bytes, *, version: int = 3, n_tensors: int = 0, n_keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + body


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name: bytes, shape: tuple[int, ...], type_id: int, offset: int) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", type_id, offset)


def of_llama(key: bytes, value: bytes) -> bytes:
    """A header that says the architecture, and one number of it; *value*: its type, too."""
    architecture = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    return gguf(architecture + text(b"llama." + key) + value, n_keys=2)


def test_the_bundled_model_is_read() -> None:
    header = read_header(BUNDLED)
    assert (header.architecture, header.n_ctx_train, header.n_layer) == ("llama", 1024, 6)
    assert header.kv_bytes_per_cell(2.0) == 6 * 2 * 2 * 64 * 2
    assert len(header.tensors) > 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"ggml" + bytes(60), "old GGML"),
        (struct.pack("<Q", 99) + b'{"a":1}', "safetensors"),
        (b"\x08\x07" + bytes(60), "no GGUF file"),
        (gguf(b"", version=9), "version 9"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (gguf(b"", n_tensors=2**62), "claims"),
        (gguf(b"", n_keys=2**40), "claims"),
        (gguf(b"", n_keys=1), "ends inside"),
        (gguf(struct.pack("<Q", 2**63), n_keys=1), "text of"),
        (gguf(text(b"k") + struct.pack("<I", 77), n_keys=1), "unknown type 77"),
        (gguf(text(b"k") + struct.pack("<IIQ", 9, 4, 2**61), n_keys=1), "ends inside"),
        (gguf(text(b"k") + struct.pack("<IIQ", 9, 8, 2**61), n_keys=1), "ends inside"),
        (gguf(text(b"k") + struct.pack("<IIQQQ", 9, 8, 2, 2**63, 0), n_keys=1), "ends inside"),
        (gguf(text(b"k") + struct.pack("<IIQQQ", 9, 8, 2, 99, 0), n_keys=1), "ends inside"),
        (gguf((text(b"k") + struct.pack("<IB", 0, 1)) * 2, n_keys=2), "twice"),
        (gguf(tensor(b"t", (2**40,) * 4, 0, 0), n_tensors=1), "shape"),
        (gguf(tensor(b"t", (0,), 0, 0), n_tensors=1), "shape"),
        (gguf(tensor(b"t", (4096,), 0, 0), n_tensors=1), "ends before its tensor"),
        (gguf(tensor(b"t", (1,), 0, 2**63), n_tensors=1), "ends before its tensor"),
        (gguf(tensor(b"t", (1,) * 5, 0, 0), n_tensors=1), "5 dimensions"),
        (gguf(tensor(b"t", (1,), 0, 0) * 2 + bytes(64), n_tensors=2), "twice"),
        # Such a number ended the list of all models, or one worker after the other.
        (of_llama(b"block_count", struct.pack("<If", 6, float("nan"))), "block_count nan"),
        (of_llama(b"context_length", struct.pack("<Ii", 5, -1)), "context_length -1"),
        (of_llama(b"embedding_length", struct.pack("<IQ", 10, 2**60)), "impossible"),
        (
            of_llama(b"attention.head_count_kv", struct.pack("<IIQ2i", 9, 5, 2, 8, -8)),
            "head_count_kv -8",
        ),
    ],
)
def test_an_unsound_model_is_refused_with_a_reason(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        read_header(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="there is no file"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(ModelFileError, match="folder"):
        read_header(tmp_path)


def test_damage_anywhere_in_the_header_is_an_error_or_harmless(tmp_path: Path) -> None:
    sound = bytearray(BUNDLED.read_bytes()[:120_000])
    path = tmp_path / "model.gguf"
    chance = random.Random(5)
    for _ in range(200):
        damaged = bytearray(sound)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(4, 4_000)] = chance.randrange(256)
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError):
            read_header(path)  # cut short, so never sound


_CUT_AND_READ = """
import os, sys
from pathlib import Path
from spillover.models import gguf_header
read = gguf_header._Reader.header
def cut_and_read(reader):
    os.truncate(sys.argv[1], 0)
    return read(reader)
gguf_header._Reader.header = cut_and_read
try:
    gguf_header.read_header(Path(sys.argv[1]))
except gguf_header.ModelFileError as error:
    print(error)
"""


def test_a_file_that_shrinks_while_it_is_read_ends_nothing(tmp_path: Path) -> None:
    """It was mapped, so that a file that shrank, or a disk that failed, ended the server."""
    path = tmp_path / "model.gguf"
    path.write_bytes(BUNDLED.read_bytes()[:1_000_000])
    command = [sys.executable, "-P", "-c", _CUT_AND_READ, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "ends inside its header" in done.stdout) == (0, True), done.stderr
