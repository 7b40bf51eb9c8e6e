"""Opens an ONNX file, or its folder, as a backend."""

from __future__ import annotations

from pathlib import Path

import msgspec

from spillover.models import onnx_folder
from spillover.models.errors import ModelFileError
from spillover.runtime.backend import N_CHECKED, BackendInfo, n_params_text
from spillover.runtime.embedding.opened import OpenedEmbedder, OpenedModel, writer
from spillover.runtime.errors import ModelError
from spillover.runtime.fit.context_fit import ContextFit
from spillover.runtime.fit.model_shape import ModelShape
from spillover.runtime.fit.planner import Planner
from spillover.runtime.machine.device import default_threads
from spillover.runtime.onnx.accelerators import to_try
from spillover.runtime.onnx.backend import OnnxBackend
from spillover.runtime.onnx.embedding.graph import find_output
from spillover.runtime.onnx.embedding.opening import open_embedder
from spillover.runtime.onnx.graph.file import read_graph
from spillover.runtime.onnx.graph.layout import GraphLayout
from spillover.runtime.onnx.graph.prepare import Prepared, prepare
from spillover.runtime.onnx.graph.weights import count_parameters
from spillover.runtime.onnx.library import ort
from spillover.runtime.onnx.runners.execution import (
    FIRST_WITH_QUERY_LENGTHS,
    Needs,
    on_accelerator,
    on_cpu,
    runtime_version,
)
from spillover.runtime.onnx.runners.fastest_execution import fastest
from spillover.runtime.onnx.settings import ModelSettings, read_settings
from spillover.runtime.onnx.tokenizer import OnnxTokenizer
from spillover.runtime.options import EngineOptions, ExecutionProvider


def open_onnx(path: Path, options: EngineOptions, *, rewrite: bool = True) -> OpenedModel:
    """A model that writes answers; otherwise as open_any_onnx()."""
    return writer(open_any_onnx(path, options, rewrite=rewrite), path)


def open_any_onnx(
    path: Path, options: EngineOptions, *, rewrite: bool = True, planner: Planner | None = None
) -> OpenedModel | OpenedEmbedder:
    """Check the files, fit the context to the memory, load. ModelError says what is wrong.

    *rewrite*: run plain attention as GroupQueryAttention where the result is the same.
    """
    try:
        files = onnx_folder.find(path)
        settings = read_settings(files)
    except ModelFileError as error:
        raise ModelError(str(error)) from error
    file = read_graph(files.graph)
    if find_output(file.proto) is not None:
        return open_embedder(files, file, options)
    graph = prepare(
        files.graph,
        runtime_version=runtime_version(),
        query_lengths=runtime_version() >= FIRST_WITH_QUERY_LENGTHS,
        rewrite=rewrite,
        n_ctx=settings.n_ctx_train,
        file=file,
    )
    tokenizer = OnnxTokenizer(files, settings)
    fit = _fit(graph, settings, planner or Planner(options))
    needs = Needs(
        n_seq=fit.n_parallel + options.n_prefix_cached + 1,
        n_ctx=fit.n_ctx,
        n_vocab=graph.layout.n_vocab or settings.n_vocab or len(tokenizer.pieces),
        n_threads=options.n_threads or default_threads(),
    )
    n_params = count_parameters(graph.proto)
    execution, notes = fastest(
        on_cpu(graph, needs),
        to_try(_wanted(options), ort.get_available_providers()),
        lambda accelerator: on_accelerator(accelerator, files.graph, needs),
        needs.n_vocab,
        is_asked_for=options.execution_provider != "auto",
    )
    info = BackendInfo(
        architecture=settings.architecture,
        description=_description(settings, graph.layout, n_params),
        n_params=n_params,
        size_bytes=graph.size_bytes,
        n_vocab=needs.n_vocab,
        n_ctx_train=settings.n_ctx_train,
        n_kv=fit.n_kv,
        n_seq=needs.n_seq,
        n_batch=min(fit.n_batch, fit.n_kv),
        n_outputs=needs.n_seq + N_CHECKED,
        n_threads=needs.n_threads,
        chat_template=settings.chat_template,
        bos_text=tokenizer.bos_text,
        eos_text=tokenizer.eos_text,
        add_bos=tokenizer.add_bos,
        use_extra_bufts=True,
        library=f"onnxruntime {ort.__version__}",
        fim=tokenizer.fim,
        device=execution.device,
        shares_cells=False,
        kv_bytes_per_cell=graph.layout.kv_bytes_per_position if execution.has_kv_on_host else 0.0,
        returns_kv=True,
        can_check=execution.can_check,
        warnings=(*notes, *execution.notes, *_unheard(options)),
    )
    backend = OnnxBackend(info, execution, tokenizer)
    return OpenedModel(
        backend=backend,
        fit=fit,
        weights=(files.graph, *file.data_files),
        speed_facts=(execution.device, graph.changes),
    )


def _description(settings: ModelSettings, layout: GraphLayout, n_params: int) -> str:
    """Such as "qwen2 0.49B int4 in blocks of 32 (ONNX)"."""
    return f"{settings.architecture} {n_params_text(n_params)} {layout.weights} (ONNX)"


def _wanted(options: EngineOptions) -> ExecutionProvider:
    is_cpu_wanted = options.n_gpu_layers == 0 and options.execution_provider == "auto"
    return "cpu" if is_cpu_wanted else options.execution_provider


def _unheard(options: EngineOptions) -> tuple[str, ...]:
    """The user's settings that have no effect."""
    notes = {
        "kv_cache_type is for GGUF models: an ONNX graph has its own": options.kv_cache_type
        not in (None, "f16"),
        "draft_model is for GGUF models: it has no effect here": options.draft_model is not None,
        "pooling has no effect: the graph gives no vectors": options.pooling != "auto",
    }
    return tuple(note for note, holds in notes.items() if holds)


def _fit(graph: Prepared, settings: ModelSettings, planner: Planner) -> ContextFit:
    layout = graph.layout
    shape = ModelShape(
        n_ctx_train=min(settings.n_ctx_train, layout.n_ctx or settings.n_ctx_train),
        size_bytes=graph.size_bytes,
        kv_bytes_per_cell=layout.kv_bytes_per_position,
        shares_cells=False,
    )
    fit = planner.plan(shape)
    if layout.n_ctx is None or fit.n_ctx <= layout.n_ctx:
        return fit
    warning = f"n_ctx was lowered to {layout.n_ctx}: the graph has no positions beyond"
    return msgspec.structs.replace(fit, n_ctx=layout.n_ctx, warnings=(*fit.warnings, warning))
