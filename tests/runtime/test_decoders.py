"""Typed JSON in several threads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fakes.fake import ROOT

RACE = """
import sys, threading, types
from concurrent.futures import ThreadPoolExecutor
{imports}
sys.setswitchinterval(1e-6)
N = 8
SOURCE = '''
from __future__ import annotations
from typing import Any, Literal
from msgspec import Struct
class Leaf(Struct, frozen=True):
    a: int | None = None
    b: str | tuple[str, ...] | None = None
    c: Literal["x", "y"] | None = None
class Middle(Struct, frozen=True):
    one: Leaf | None = None
    two: tuple[Leaf, ...] | None = None
    three: dict[str, Any] | None = None
class Outer(Struct, frozen=True):
    one: Middle | None = None
    two: tuple[Middle, ...] | None = None
    three: Leaf | str | None = None
'''
def new_kind(n):
    module = sys.modules[f"kinds_{{n}}"] = types.ModuleType(f"kinds_{{n}}")
    exec(SOURCE, module.__dict__)
    return module.Outer
body = b'{{"one": {{"one": {{"a": 1}}, "two": [{{"b": "x"}}]}}, "two": [{{}}], "three": {{}}}}'
with ThreadPoolExecutor(N) as pool:
    for n in range(200):
        kind, start = new_kind(n), threading.Barrier(N)
        def first(_):
            start.wait()
            return {decode}
        list(pool.map(first, range(N)))
"""

READERS = {
    "decoder_of": (
        "from spillover.runtime.decoders import decoder_of",
        "decoder_of(kind).decode(body)",
    ),
    "a request's body": (
        "from spillover.edge_server.wire.request_body import decode",
        "decode(body, kind)",
    ),
    "a provider's frame": (
        "from spillover.cloud_fallback.providers.dialects.decoding import FrameReader",
        "FrameReader('p').read(body, kind)",
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_the_first_values_of_a_kind_may_come_at_the_same_time(name: str) -> None:
    """Two first requests at once used to end the server with a segmentation fault."""
    imports, decode = READERS[name]
    script = RACE.format(imports=imports, decode=decode)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
