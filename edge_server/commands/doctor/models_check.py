"""What `spillover doctor` says about the models that are served beside the default one."""

from __future__ import annotations

from spillover.edge_server.commands.doctor.checkup import Findings, gigabytes
from spillover.edge_server.commands.loading import model_store
from spillover.edge_server.config.model_settings import ModelSettings
from spillover.edge_server.config.settings import Settings
from spillover.models import catalogue
from spillover.models.entry import CatalogueError
from spillover.runtime.errors import SpilloverError
from spillover.runtime.hosting.memory import needed_bytes


def check_models(findings: Findings, settings: Settings) -> None:
    """Whether the file of each [[local_model]] exists, and whether it fits into memory."""
    store = model_store(settings)
    most = settings.models_memory_mb
    limit = None if most is None else int(most * 2**20)
    if limit is None and findings.device is not None:
        limit = findings.device.ram_available_bytes
    pinned = 0
    for own in settings.models:
        try:
            path = catalogue.find(own.file, store).path
            needed = needed_bytes(path.absolute(), own.engine(settings.engine)).total
        except (CatalogueError, SpilloverError, OSError) as error:
            todo = f"correct the [[local_model]] {own.name}, or pull its model"
            findings.add(error, todo, blocks=True)
            continue
        findings.models[own.name] = _shown(own, str(path), needed)
        pinned += needed if own.pinned else 0
        if limit is not None and needed > limit:
            what = f"{own.name} needs {gigabytes(needed)} or more, but there is {gigabytes(limit)}"
            findings.add(what, "choose a smaller model or quantization", blocks=False)
    if limit is not None and pinned > limit:
        what = f"the pinned models need {gigabytes(pinned)} together: others find no room"
        findings.add(what, "pin fewer of them", blocks=False)


def _shown(own: ModelSettings, path: str, needed: int) -> str:
    wishes = [name for name in ("preload", "pinned") if getattr(own, name)]
    called = f", also called {', '.join(own.aliases)}" if own.aliases else ""
    return ", ".join([f"{path} ({gigabytes(needed)} or more{called})", *wishes])
