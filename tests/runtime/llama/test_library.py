"""llama.cpp is loaded without what Python's package around it brings along."""

from __future__ import annotations

import subprocess
import sys

_CODE = """if True:
    import sys
    from spillover.runtime.llama.library import lib

    print(*{"jinja2", "diskcache", "llama_cpp", "llama_cpp.llama"} & set(sys.modules))
    import llama_cpp

    print(llama_cpp.Llama.__name__, llama_cpp.llama_cpp is lib)
"""


def test_the_package_is_not_loaded_but_stays_whole_for_others() -> None:
    said = subprocess.run([sys.executable, "-c", _CODE], check=True, capture_output=True, text=True)
    assert said.stdout.splitlines() == ["", "Llama True"]
