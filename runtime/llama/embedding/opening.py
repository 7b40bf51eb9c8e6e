"""Opens a GGUF file of a model that is made for vectors or scores."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from spillover.models.gguf_header import GgufHeader
from spillover.runtime.embedding.opened import OpenedEmbedder
from spillover.runtime.engine import ModelCard
from spillover.runtime.fit.context_fit import ContextFit
from spillover.runtime.fit.model_shape import gguf_shape
from spillover.runtime.fit.placement import taken
from spillover.runtime.llama.embedding.embedder import LlamaEmbedder
from spillover.runtime.llama.embedding.plan import longest_input, plan_embedding
from spillover.runtime.llama.governed_calls import GovernedCalls
from spillover.runtime.llama.library import gpu_memory, lib, start_library, uses_gpu
from spillover.runtime.llama.model import LlamaModel, OnProgress
from spillover.runtime.machine.device import default_threads
from spillover.runtime.options import EngineOptions


def open_embedder(
    path: Path,
    header: GgufHeader,
    options: EngineOptions,
    on_progress: OnProgress | None = None,
) -> OpenedEmbedder:
    """Load the model. Raises ModelError."""
    n_ctx = longest_input(header, options)
    n_threads = options.n_threads or default_threads()
    n_gpu_layers = -1 if options.n_gpu_layers is None else options.n_gpu_layers
    start_library()
    is_on_gpu = uses_gpu(n_gpu_layers)
    gpu = gpu_memory() if is_on_gpu else None
    shape = structs.replace(gguf_shape(path, header), n_layers=header.n_layer + 1)
    fit = ContextFit(n_ctx=n_ctx, n_kv=n_ctx, n_parallel=1, n_gpu_layers=n_gpu_layers)
    model = LlamaModel(
        path,
        n_gpu_layers=n_gpu_layers,
        use_extra_bufts=options.use_extra_bufts,
        on_progress=on_progress,
    )
    calls = GovernedCalls(n_threads, adapts=options.adapt_threads and not is_on_gpu)
    embedder = LlamaEmbedder(model, plan_embedding(header, options, n_ctx), calls)
    card = ModelCard(
        name="",
        architecture=header.architecture,
        description=model.description(),
        n_params=model.n_params,
        size_bytes=lib.llama_model_size(model.handle),
        memory=taken(shape, fit, gpu),
        gpu_free_bytes=() if gpu is None else gpu.own,
        n_vocab=model.n_vocab,
        n_ctx_train=header.n_ctx_train,
        n_ctx=n_ctx,
        n_kv=n_ctx,
        n_parallel=1,
        n_threads=n_threads,
        has_chat_template=False,
        use_extra_bufts=options.use_extra_bufts,
        device="GPU" if is_on_gpu else "CPU",
        bos_text=model.special_text(lib.llama_vocab_bos(model.vocab)),
        eos_text=model.special_text(lib.llama_vocab_eos(model.vocab)),
        generates=False,
        embedding=embedder.card,
    )
    return OpenedEmbedder(embedder=embedder, vocabulary=model, card=card)
