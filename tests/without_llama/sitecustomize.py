"""Python imports this at the start of every process that has this folder on its path: there, nobody
has installed llama.cpp."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import cast

sys.modules["llama_cpp"] = cast(ModuleType, None)  # "not there", to import and find_spec alike
