"""Whether the llama.cpp on the path decodes a token of the bundled model."""

import numpy as np

from spillover.models.catalogue import find
from spillover.runtime.backend import Rows
from spillover.runtime.llama.opening.opening import open_gguf
from spillover.runtime.options import EngineOptions

backend = open_gguf(find("storyteller").path, EngineOptions(n_ctx=64, n_threads=1)).backend
tokens = backend.tokenize("Once upon a time", add_special=True, parse_special=False)
backend.decode([Rows(0, 0, tokens, True)])
assert np.isfinite(backend.logits(0)).all()
backend.close()
