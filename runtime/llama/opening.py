"""Opens a GGUF file as a backend."""

from __future__ import annotations

from pathlib import Path

from spillover.models.at_path import part_names
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import GgufHeader, read_header
from spillover.runtime.backend import N_BATCH
from spillover.runtime.embedding.opened import OpenedEmbedder, OpenedModel, writer
from spillover.runtime.errors import ModelError
from spillover.runtime.llama.backend import LlamaBackend
from spillover.runtime.llama.context import LlamaConfig
from spillover.runtime.llama.embedder import LlamaEmbedder
from spillover.runtime.llama.embedding_plan import is_made_for_embedding, plan_embedding
from spillover.runtime.llama.governed_calls import GovernedCalls
from spillover.runtime.llama.library import uses_gpu
from spillover.runtime.llama.model import OnProgress
from spillover.runtime.llama.opening_embedder import open_embedder
from spillover.runtime.llama.prefill_choice import choose_prefill
from spillover.runtime.llama.thread_choice import choose_threads
from spillover.runtime.machine.device import available_memory, default_threads
from spillover.runtime.machine.memory_fit import KV_BYTES_PER_VALUE, ContextFit, fit_context
from spillover.runtime.options import EngineOptions


def open_gguf(path: Path, options: EngineOptions) -> OpenedModel:
    """A model that writes answers; otherwise as open_any_gguf()."""
    return writer(open_any_gguf(path, options), path)


def open_any_gguf(
    path: Path, options: EngineOptions, on_progress: OnProgress | None = None
) -> OpenedModel | OpenedEmbedder:
    """Check the file, fit the context to the memory, load. ModelError says what is wrong."""
    try:
        header = read_header(path)
    except ModelFileError as error:
        raise ModelError(str(error)) from error
    if is_made_for_embedding(header):
        return open_embedder(path, header, options, on_progress)
    draft = _draft_header(options)
    fit = _fit(header, draft, options)
    config = LlamaConfig(
        n_kv=fit.n_kv,
        n_seq=fit.n_parallel + options.n_prefix_cached + 1,
        n_batch=min(N_BATCH, fit.n_kv),
        n_threads=options.n_threads or default_threads(),
        n_gpu_layers=options.n_gpu_layers,
        kv_cache_type=options.kv_cache_type,
        use_extra_bufts=options.use_extra_bufts,
        adapt_threads=options.adapt_threads,
        kv_bytes_per_cell=_bytes_per_cell(header, options),
    )
    backend = LlamaBackend(path, config, on_progress=on_progress)
    try:
        if draft is not None and options.draft_model is not None:
            backend.load_draft_model(options.draft_model, _bytes_per_cell(draft, options))
        choose_threads(backend, options)
        choose_prefill(backend, options, _bytes_per_cell(header, options), available_memory())
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
        backend=backend, fit=fit, weights=weights, speed_facts=facts, embedder=embedder
    )


def _bytes_per_cell(header: GgufHeader, options: EngineOptions) -> float:
    return header.kv_bytes_per_cell(KV_BYTES_PER_VALUE[options.kv_cache_type])


def _draft_header(options: EngineOptions) -> GgufHeader | None:
    """Of the model that proposes tokens, if one should. Raises ModelError."""
    if options.draft_model is None or options.speculation == "off":
        return None
    try:
        return read_header(options.draft_model)
    except ModelFileError as error:
        raise ModelError(f"draft_model: {error}") from error


def _fit(header: GgufHeader, draft: GgufHeader | None, options: EngineOptions) -> ContextFit:
    """Both models hold every cell."""
    all_ = [header] if draft is None else [header, draft]
    return fit_context(
        options,
        n_ctx_train=header.n_ctx_train or 4096,
        kv_bytes_per_cell=sum(_bytes_per_cell(one, options) for one in all_),
        free_bytes=available_memory() - sum(one.file_size for one in all_),
    )
