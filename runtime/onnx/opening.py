"""From an ONNX file, or its folder, to a backend."""

from __future__ import annotations

from pathlib import Path

import msgspec

from spillover.models import onnx_folder
from spillover.models.errors import ModelFileError
from spillover.runtime.backend import BackendInfo
from spillover.runtime.device import available_memory, default_threads
from spillover.runtime.errors import ModelError
from spillover.runtime.memory_fit import ContextFit, fit_context
from spillover.runtime.onnx.backend import OnnxBackend
from spillover.runtime.onnx.exact_runner import ExactRunner
from spillover.runtime.onnx.graph_layout import GraphLayout
from spillover.runtime.onnx.graph_prepare import Prepared, prepare
from spillover.runtime.onnx.library import ort
from spillover.runtime.onnx.parameter_count import count_parameters
from spillover.runtime.onnx.session import OnnxSession, session_options
from spillover.runtime.onnx.settings import ModelSettings, read_settings
from spillover.runtime.onnx.slot_runner import SlotRunner
from spillover.runtime.onnx.spinning import is_spinning_faster
from spillover.runtime.onnx.tokenizer import OnnxTokenizer
from spillover.runtime.opened_model import N_BATCH, OpenedModel
from spillover.runtime.options import EngineOptions


def open_onnx(path: Path, options: EngineOptions, *, rewrite: bool = True) -> OpenedModel:
    """Check the files, fit the context to the memory, load. ModelError says what is wrong.

    *rewrite*: let plain attention run as GroupQueryAttention where that is the same.
    """
    try:
        files = onnx_folder.find(path)
        settings = read_settings(files)
    except ModelFileError as error:
        raise ModelError(str(error)) from error
    graph = prepare(
        files.graph,
        runtime_version=_runtime_version(),
        rewrite=rewrite,
        n_ctx=settings.n_ctx_train,
    )
    layout = graph.layout
    tokenizer = OnnxTokenizer(files, settings)
    fit = _fit(graph, layout, settings, options)
    n_threads = options.n_threads or default_threads()
    session = _session(graph, n_threads)
    n_seq = fit.n_parallel + options.n_prefix_cached + 1
    kind = ExactRunner if layout.attention == "growing" else SlotRunner
    runner = kind(session, layout, n_seq=n_seq, capacity=fit.n_ctx)
    info = BackendInfo(
        architecture=settings.architecture,
        description=f"{settings.architecture} {layout.weights} ONNX",
        n_params=count_parameters(graph.proto),
        size_bytes=graph.size_bytes,
        n_vocab=layout.n_vocab or 0,
        n_ctx_train=settings.n_ctx_train,
        n_kv=fit.n_kv,
        n_seq=n_seq,
        n_batch=min(N_BATCH, fit.n_kv),
        n_outputs=n_seq,
        n_threads=n_threads,
        chat_template=settings.chat_template,
        bos_text=tokenizer.bos_text,
        eos_text=tokenizer.eos_text,
        add_bos=tokenizer.add_bos,
        use_extra_bufts=True,
        library=f"onnxruntime {ort.__version__}",
        shares_cells=False,
    )
    backend = OnnxBackend(info, session, runner, tokenizer, session.dtype(layout.logits))
    return OpenedModel(backend=backend, fit=fit, speed_facts=())


def _runtime_version() -> tuple[int, int]:
    major, minor = ort.__version__.split(".")[:2]
    return int(major), int(minor)


def _session(graph: Prepared, n_threads: int) -> OnnxSession:
    options = session_options(n_threads, spins=is_spinning_faster(n_threads))
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(graph.folder)
    )
    return OnnxSession(graph.proto.SerializeToString(), options, ["CPUExecutionProvider"])


def _fit(
    graph: Prepared, layout: GraphLayout, settings: ModelSettings, options: EngineOptions
) -> ContextFit:
    n_ctx_train = min(settings.n_ctx_train, layout.n_ctx or settings.n_ctx_train)
    fit = fit_context(
        options,
        n_ctx_train=n_ctx_train,
        kv_bytes_per_cell=layout.kv_bytes_per_position,
        free_bytes=available_memory() - graph.size_bytes,
    )
    if layout.n_ctx is None or fit.n_ctx <= layout.n_ctx:
        return fit
    warning = f"n_ctx was lowered to {layout.n_ctx}: the graph has no positions beyond"
    return msgspec.structs.replace(fit, n_ctx=layout.n_ctx, warnings=(*fit.warnings, warning))
