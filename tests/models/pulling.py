"""What tests of pulls share."""

from __future__ import annotations

from spillover.models.catalogue import default_model
from spillover.models.pull.order import PullOptions
from spillover.models.pull.pull import pull
from spillover.models.store import ModelStore, PulledModel

MODEL = default_model().path.read_bytes()
OPTIONS = PullOptions(total_bytes=8 * 2**30, free_bytes=6 * 2**30)


def fetch(text: str, store: ModelStore, options: PullOptions = OPTIONS) -> PulledModel:
    """The model, and a progress that never goes back within an attempt or past the end."""
    seen: list[tuple[int, int]] = []
    model = pull(text, store, options, lambda done, total: seen.append((done, total)))
    assert all(done <= total for done, total in seen if total)
    return model


def listed(sources: str, digest: str) -> str:
    return (
        '[tale]\nlicence = "X"\nn_ctx = 1024\ndescription = "a tale"\n'
        f'files = [{{ quantization = "Q8_0", size_bytes = {len(MODEL)}, sha256 = "{digest}", '
        f"sources = [{sources}] }}]\n"
    )
