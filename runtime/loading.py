"""From the path of a model file to a backend that can decode."""

from __future__ import annotations

import hashlib
from pathlib import Path

import llama_cpp.llama_cpp  # noqa: F401  # loaded first: the library takes longest
from msgspec import Struct

from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import GgufHeader, read_header
from spillover.runtime.backend import Backend
from spillover.runtime.device import available_memory, default_threads
from spillover.runtime.engine import ModelCard
from spillover.runtime.errors import ModelError
from spillover.runtime.llama.backend import LlamaBackend, LlamaConfig
from spillover.runtime.memory_fit import KV_BYTES_PER_VALUE, ContextFit, fit_context
from spillover.runtime.options import EngineOptions
from spillover.runtime.text.chat_template import ChatTemplate

N_BATCH = 512
"""Most tokens of one call; larger calls read no faster on the devices measured."""


class LoadedModel(Struct, frozen=True, kw_only=True):
    """What a worker serves."""

    backend: Backend
    template: ChatTemplate
    card: ModelCard
    fingerprint: str
    """Names the model, the library and the settings that its speed depends on."""


def load(path: Path, name: str, options: EngineOptions) -> LoadedModel:
    """Check the file, fit the context to the memory, load. ModelError says what is wrong."""
    try:
        header = read_header(path)
    except ModelFileError as error:
        raise ModelError(str(error)) from error
    fit = _fit(header, options)
    config = LlamaConfig(
        n_kv=fit.n_kv,
        n_seq=fit.n_parallel + options.n_prefix_cached + 1,
        n_batch=min(N_BATCH, fit.n_kv),
        n_threads=options.n_threads or default_threads(),
        n_gpu_layers=options.n_gpu_layers,
        kv_cache_type=options.kv_cache_type,
        use_extra_bufts=options.use_extra_bufts,
    )
    backend = LlamaBackend(path, config)
    info = backend.info
    template = ChatTemplate(
        info.chat_template, bos_text=info.bos_text, eos_text=info.eos_text, name=name
    )
    return LoadedModel(
        backend=backend,
        template=template,
        card=_card(backend, name, fit, template),
        fingerprint=_fingerprint(backend, config),
    )


def _fit(header: GgufHeader, options: EngineOptions) -> ContextFit:
    bytes_per_value = KV_BYTES_PER_VALUE[options.kv_cache_type]
    return fit_context(
        options,
        n_ctx_train=header.n_ctx_train or 4096,
        kv_bytes_per_cell=header.kv_bytes_per_cell(bytes_per_value),
        free_bytes=available_memory() - header.file_size,
    )


def _card(backend: Backend, name: str, fit: ContextFit, template: ChatTemplate) -> ModelCard:
    info = backend.info
    return ModelCard(
        name=name,
        architecture=info.architecture,
        description=info.description,
        n_params=info.n_params,
        size_bytes=info.size_bytes,
        n_vocab=info.n_vocab,
        n_ctx_train=info.n_ctx_train,
        n_ctx=fit.n_ctx,
        n_kv=info.n_kv,
        n_parallel=fit.n_parallel,
        n_threads=info.n_threads,
        has_chat_template=info.chat_template is not None,
        use_extra_bufts=info.use_extra_bufts,
        warnings=(*fit.warnings, *template.warnings),
    )


def _fingerprint(backend: Backend, config: LlamaConfig) -> str:
    info = backend.info
    facts = (
        info.architecture,
        info.description,
        info.n_params,
        info.size_bytes,
        info.n_vocab,
        info.library,
        config.n_threads,
        config.n_gpu_layers,
        config.kv_cache_type,
        config.use_extra_bufts,
        config.n_batch,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
