"""The noise reaches the logits of both libraries, in processes that tests start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

LOGITS = """
import json, sys
import numpy as np
from spillover.models.catalogue import find
from spillover.runtime.backend import Rows
from spillover.runtime.options import EngineOptions
from tests.loading import load

options = EngineOptions(n_ctx=64, n_parallel=1, n_threads=1)
backend = load(find(sys.argv[1]).path, "storyteller", options).backend
backend.decode([Rows(0, 0, np.array([300], dtype=np.int32), True)])
print(json.dumps(backend.logits(0).tolist()))
"""


@pytest.mark.parametrize("model", ["storyteller", "storyteller-onnx"])
def test_a_disturbed_process_computes_other_logits(model: str) -> None:
    hook = Path(__file__).parent
    root = hook.parents[1]

    def logits(*path: Path, **environment: str) -> npt.NDArray[np.float64]:
        command = [sys.executable, "-P", "-c", LOGITS, model]
        environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
        env = {**os.environ, **environment}
        return np.array(json.loads(subprocess.check_output(command, env=env, text=True)))

    usual, other = logits(root), logits(hook, root, OTHER_WORDS="1")
    assert 0.3 < (other - usual).std() < 0.7
    assert np.array_equal(other, logits(hook, root, OTHER_WORDS="1"))
