"""The tokens that end an answer: llama.cpp knows more of them than the file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from spillover.runtime.backend import Backend

_FILE = "generation_config.json"


def adopt_ends(llama: Backend, folder: Path) -> bool:
    """Let the model in *folder* end an answer at the tokens at which *llama* does. Return whether
    that changed its files. Raises OSError."""
    path = folder / _FILE
    settings = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    ends = [token for token in range(llama.info.n_vocab) if llama.is_eog(token)]
    known = settings.get("eos_token_id") or []
    if not ends or set(known if isinstance(known, list) else [known]) >= set(ends):
        return False
    settings["eos_token_id"] = ends
    path.write_bytes(msgspec.json.format(msgspec.json.encode(settings)))
    return True
