"""What engines measure of a device while they are idle, as if they had run on it before. Measuring
takes longer than most tests, again and again while other programs take the cores."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from spillover.models.catalogue import find
from spillover.runtime.files.json_file import MeasurementStore
from spillover.runtime.options import EngineOptions
from spillover.runtime.scheduling.pace.cost_measurement import SavedCostTables
from spillover.runtime.scheduling.pace.slice_costs import SIZES, SavedCosts
from tests.loading import load

_COSTS = SavedCosts(
    per_call_s={n: 1e-3 + n * 1.5e-4 for n in SIZES},
    per_token_and_cell_s=dict.fromkeys((4, 16, 64, 256), 3e-7),
)
_TABLES = SavedCostTables(pure=_COSTS, mixed=_COSTS)


def bundled() -> tuple[Path, ...]:
    return tuple(Path(find(name).path) for name in ("storyteller", "storyteller-onnx"))


def measured(cache_dir: Path, *models: Path) -> Path:
    """*cache_dir*, in which the costs of *models* with one thread are known."""
    for model in models or bundled():
        store = MeasurementStore(cache_dir, _fingerprint(model), SavedCostTables)
        store.write(_TABLES)
    return cache_dir


@cache
def _fingerprint(model: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        loaded = load(model, "", EngineOptions(n_threads=1, cache_dir=Path(folder)))
    loaded.backend.close()
    return loaded.fingerprint
