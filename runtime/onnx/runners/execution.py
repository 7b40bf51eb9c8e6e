"""A graph that is ready to run: its session, and the runner that its kind of KV cache needs."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from spillover.runtime.errors import ModelError
from spillover.runtime.onnx.accelerators import Accelerator
from spillover.runtime.onnx.graph.layout import GraphLayout
from spillover.runtime.onnx.graph.prepare import Prepared, prepare
from spillover.runtime.onnx.library import ort
from spillover.runtime.onnx.runners.device_runner import DeviceRunner
from spillover.runtime.onnx.runners.exact_runner import ExactRunner
from spillover.runtime.onnx.runners.runner import Runner
from spillover.runtime.onnx.runners.slot_runner import SlotRunner
from spillover.runtime.onnx.runners.stepwise_runner import StepwiseRunner, reads_slices
from spillover.runtime.onnx.session import OnnxSession, session_options
from spillover.runtime.onnx.spinning import is_spinning_faster

FIRST_WITH_QUERY_LENGTHS = (1, 32)

_STEPWISE = (
    "the graph was exported for one new token at a time: prompts are read slowly, token by token; "
    "export the model with a newer program"
)


class Needs(Struct, frozen=True, kw_only=True):
    """What a runner must have room for, and the threads it gets."""

    n_seq: int
    n_ctx: int
    n_vocab: int
    n_threads: int


class Execution(Struct, frozen=True, kw_only=True):
    """A session with its KV cache; *device* is for display."""

    device: str
    session: OnnxSession
    runner: Runner
    layout: GraphLayout
    has_kv_on_host: bool = True
    """Whether the KV cache takes memory of this process, rather than a device's."""
    notes: tuple[str, ...] = ()
    """What the user should know."""

    @property
    def has_parts(self) -> bool:
        """Whether parts of a sequence are saved, appended and copied apart from the others. Where
        the arrays are as long as the sequence, each of them would cost as much as all."""
        return isinstance(self.runner, SlotRunner)

    @property
    def can_check(self) -> bool:
        """Whether some tokens of a sequence can be read in one run, with the logits of all, and
        most of them be cut off again at no cost. The logits of a token must not depend on those
        behind it, either."""
        layout = self.layout
        is_cheap = isinstance(self.runner, SlotRunner) and layout.logits_form != "last"
        return is_cheap and not layout.rounds_together


def on_cpu(graph: Prepared, needs: Needs) -> Execution:
    """Consumes the graph. Raises ModelError."""
    layout = graph.layout
    session = open_session(graph, needs.n_threads, ("CPUExecutionProvider",))
    runner = _host_runner(session, layout, needs)
    notes: tuple[str, ...] = ()
    session.arm()
    if layout.attention == "growing" and not reads_slices(
        runner, needs.n_vocab, session.dtype(layout.logits)
    ):
        runner, notes = StepwiseRunner(runner), (_STEPWISE,)
    return Execution(device="CPU", session=session, runner=runner, layout=layout, notes=notes)


def on_accelerator(accelerator: Accelerator, path: Path, needs: Needs) -> Execution:
    """Raises ModelError when the accelerator is not available."""
    graph = prepare(path, runtime_version=runtime_version(), on_cpu=False, rewrite=False)
    layout = graph.layout
    session = open_session(graph, needs.n_threads, (*accelerator.providers, "CPUExecutionProvider"))
    if session.providers[0] != accelerator.providers[0]:
        raise ModelError("its driver or its library cannot be loaded")
    if accelerator.kv_device == "cpu":
        runner = _host_runner(session, layout, needs)
    else:
        runner = DeviceRunner(
            session, layout, accelerator.kv_device, n_seq=needs.n_seq, capacity=needs.n_ctx
        )
    return Execution(
        device=accelerator.name,
        session=session,
        runner=runner,
        layout=layout,
        has_kv_on_host=accelerator.kv_device == "cpu",
    )


def _host_runner(session: OnnxSession, layout: GraphLayout, needs: Needs) -> Runner:
    if layout.attention == "growing":
        return ExactRunner(session, layout, n_seq=needs.n_seq, capacity=needs.n_ctx)
    return SlotRunner(session, layout, n_seq=needs.n_seq, capacity=needs.n_ctx)


def open_session(graph: Prepared, n_threads: int, providers: tuple[str, ...]) -> OnnxSession:
    """Consumes the graph. Raises ModelError."""
    options = session_options(n_threads, spins=is_spinning_faster(n_threads))
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(graph.folder)
    )
    content = graph.proto.SerializeToString()
    graph.proto.Clear()  # up to 2 GiB with weights inside, and the session needs as much again
    return OnnxSession(content, options, providers)


def runtime_version() -> tuple[int, int]:
    major, minor = ort.__version__.split(".")[:2]
    return int(major), int(minor)
