"""Opens a GGUF file as a backend."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from spillover.models.at_path import part_names
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import read_header
from spillover.runtime.embedding.opened import OpenedEmbedder, OpenedModel, writer
from spillover.runtime.errors import ModelError
from spillover.runtime.fit.model_shape import ModelShape, draft_shape, gguf_shape, together
from spillover.runtime.fit.placement import taken
from spillover.runtime.fit.planner import Planner
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.llama.context import LlamaConfig
from spillover.runtime.llama.embedding.embedder import LlamaEmbedder
from spillover.runtime.llama.embedding.opening import open_embedder
from spillover.runtime.llama.embedding.plan import is_made_for_embedding, plan_embedding
from spillover.runtime.llama.governed_calls import GovernedCalls
from spillover.runtime.llama.library import gpu_memory, start_library, uses_gpu
from spillover.runtime.llama.model import OnProgress
from spillover.runtime.llama.opening.prefill_choice import choose_prefill
from spillover.runtime.llama.opening.thread_choice import choose_threads
from spillover.runtime.machine.device import available_memory, default_threads
from spillover.runtime.options import EngineOptions

_UNUSED_DRAFT_MODEL = (
    "draft_model has no effect: this model forgets what wrong tokens displace, so that none are "
    "proposed"
)
_DRAFTS_ARE_OFF = "draft_model has no effect: speculation is off"


def open_gguf(
    path: Path,
    options: EngineOptions,
    on_progress: OnProgress | None = None,
    planner: Planner | None = None,
) -> OpenedModel:
    """A model that writes answers; otherwise as open_any_gguf()."""
    return writer(open_any_gguf(path, options, on_progress, planner), path)


def open_any_gguf(
    path: Path,
    options: EngineOptions,
    on_progress: OnProgress | None = None,
    planner: Planner | None = None,
) -> OpenedModel | OpenedEmbedder:
    """Check the file, fit the context to the memory, load. ModelError says what is wrong."""
    try:
        header = read_header(path)
        shape = gguf_shape(path, header)
    except (ModelFileError, OSError) as error:  # a part may be missing
        raise ModelError(str(error)) from error
    if is_made_for_embedding(header):
        made = open_embedder(path, header, options, on_progress)
        return structs.replace(made, card=structs.replace(made.card, warnings=_unheard(options)))
    draft = _draft_shape(options)
    start_library()
    gpu = gpu_memory() if uses_gpu(-1) else None
    if uses_gpu(-1):
        shape = structs.replace(shape, n_layers=header.n_layer + 1)
    both = shape if draft is None else together(shape, draft)
    fit = (planner or Planner(options)).plan(both, gpu)
    if draft is None and options.draft_model is not None:
        fit = structs.replace(fit, warnings=(*fit.warnings, _DRAFTS_ARE_OFF))
    fit = structs.replace(fit, warnings=(*fit.warnings, *_unheard(options)))
    cell_bytes = shape.cell_bytes(fit.kv_cache_type)
    config = LlamaConfig(
        n_kv=fit.n_kv,
        n_seq=fit.n_parallel + options.n_prefix_cached + 1,
        n_batch=min(fit.n_batch, fit.n_kv),
        n_threads=options.n_threads or default_threads(),
        n_gpu_layers=fit.n_gpu_layers,
        kv_cache_type=fit.kv_cache_type,
        use_extra_bufts=options.use_extra_bufts and fit.use_extra_bufts,
        adapt_threads=options.adapt_threads,
        kv_bytes_per_cell=cell_bytes,
    )
    backend = LlamaBackend(path, config, on_progress=on_progress)
    if draft is not None and not backend.info.can_check:
        # Only llama.cpp knows that, and memory was planned for both.
        backend.close()
        alone = structs.replace(options, draft_model=None)
        opened = open_gguf(path, alone, on_progress, planner)
        warnings = (*opened.fit.warnings, _UNUSED_DRAFT_MODEL)
        return structs.replace(opened, fit=structs.replace(opened.fit, warnings=warnings))
    try:
        if draft is not None and options.draft_model is not None:
            backend.load_draft_model(options.draft_model, draft.cell_bytes(fit.kv_cache_type))
        choose_threads(backend, options)
        choose_prefill(backend, options, cell_bytes, available_memory())
    except BaseException:
        backend.close()
        raise
    facts = (
        config.n_gpu_layers,
        config.kv_cache_type,
        config.use_extra_bufts,
        backend.reads_apart,
    )
    plan = plan_embedding(header, options, fit.n_ctx)
    calls = GovernedCalls(
        config.n_threads, adapts=options.adapt_threads and not uses_gpu(config.n_gpu_layers)
    )
    embedder = LlamaEmbedder(backend.model, plan, calls)
    weights = tuple(path.with_name(name) for name in part_names(path.name))
    return OpenedModel(
        backend=backend,
        fit=fit,
        weights=weights,
        speed_facts=facts,
        embedder=embedder,
        memory=taken(both, fit, gpu),
        gpu_free_bytes=() if gpu is None else gpu.own,
    )


def _unheard(options: EngineOptions) -> tuple[str, ...]:
    """The owner's settings that have no effect."""
    if not options.n_gpu_layers or uses_gpu(-1):
        return ()
    return ("n_gpu_layers has no effect: llama.cpp finds no GPU; `spillover doctor` may say why",)


def _draft_shape(options: EngineOptions) -> ModelShape | None:
    """Of the model that proposes tokens, if one should. Raises ModelError."""
    try:
        return draft_shape(options)
    except (ModelFileError, OSError) as error:
        raise ModelError(f"draft_model: {error}") from error
