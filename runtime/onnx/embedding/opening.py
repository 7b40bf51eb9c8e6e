"""Opens an ONNX graph that makes vectors or scores."""

from __future__ import annotations

from spillover.models.errors import ModelFileError
from spillover.models.onnx_folder import OnnxModelFiles
from spillover.runtime.backend import n_params_text
from spillover.runtime.embedding.opened import OpenedEmbedder
from spillover.runtime.embedding_request import Pooling
from spillover.runtime.engine import EmbeddingCard, ModelCard
from spillover.runtime.errors import ModelError
from spillover.runtime.machine.device import default_threads
from spillover.runtime.onnx.embedding.embedder import OnnxEmbedder
from spillover.runtime.onnx.embedding.graph import EmbeddingGraph, inspect_embedding
from spillover.runtime.onnx.embedding.settings import (
    EmbeddingSettings,
    longest_input,
    read_embedding_settings,
)
from spillover.runtime.onnx.embedding.tokenizer import EncoderTokenizer
from spillover.runtime.onnx.graph.file import GraphFile
from spillover.runtime.onnx.graph.weights import count_parameters, describe_weights
from spillover.runtime.onnx.session import OnnxSession, session_options
from spillover.runtime.onnx.spinning import is_spinning_faster
from spillover.runtime.options import EngineOptions


def open_embedder(files: OnnxModelFiles, file: GraphFile, options: EngineOptions) -> OpenedEmbedder:
    """Check the graph and the files beside it, and load it. Raises ModelError."""
    graph = inspect_embedding(file.proto)
    try:
        settings = read_embedding_settings(files)
    except ModelFileError as error:
        raise ModelError(str(error)) from error
    if settings.other_steps and graph.kind == "tokens":
        raise ModelError(
            f"modules.json has the step {settings.other_steps[0][:80]!r}, which the graph lacks: "
            "export the model with the output sentence_embedding"
        )
    tokenizer = EncoderTokenizer(files)
    n_ctx = longest_input(settings, options, file.size_bytes)
    n_threads = options.n_threads or default_threads()
    n_params, weights = count_parameters(file.proto), describe_weights(file.proto)
    session = _session(file, n_threads)
    card = EmbeddingCard(
        pooling=_pooling(graph, settings, options),
        n_ctx=n_ctx,
        n_values=_n_values(graph),
        normalizes=settings.normalizes,
        is_logit=graph.kind == "scores",
    )
    n_vocab = min(settings.n_vocab or tokenizer.n_vocab, tokenizer.n_vocab)
    return OpenedEmbedder(
        embedder=OnnxEmbedder(session, graph, tokenizer, card, n_vocab),
        vocabulary=tokenizer,
        card=ModelCard(
            name="",
            architecture=settings.architecture,
            description=f"{settings.architecture} {n_params_text(n_params)} {weights} (ONNX)",
            n_params=n_params,
            size_bytes=file.size_bytes,
            n_vocab=n_vocab,
            n_ctx_train=settings.n_ctx_train,
            n_ctx=n_ctx,
            n_kv=n_ctx,
            n_parallel=1,
            n_threads=n_threads,
            has_chat_template=False,
            use_extra_bufts=True,
            generates=False,
            warnings=_unheard(options),
            embedding=card,
        ),
    )


def _pooling(graph: EmbeddingGraph, settings: EmbeddingSettings, options: EngineOptions) -> Pooling:
    if graph.kind == "scores":
        return "rank"
    is_free = graph.kind == "tokens" and options.pooling != "auto"
    return options.pooling if is_free and options.pooling != "auto" else settings.pooling


def _unheard(options: EngineOptions) -> tuple[str, ...]:
    """The owner's settings that have no effect."""
    if options.execution_provider in ("auto", "cpu"):
        return ()
    return ("execution_provider has no effect: vectors and scores are made by the processor",)


def _n_values(graph: EmbeddingGraph) -> int:
    if graph.kind == "scores":
        return 1
    if graph.n_values is None:
        raise ModelError(f"the graph does not say how many numbers {graph.output!r} has")
    return graph.n_values


def _session(file: GraphFile, n_threads: int) -> OnnxSession:
    options = session_options(n_threads, spins=is_spinning_faster(n_threads))
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(file.path.parent)
    )
    content = file.proto.SerializeToString()
    file.proto.Clear()  # up to 2 GiB with weights inside, and the session needs as much again
    return OnnxSession(content, options, ("CPUExecutionProvider",))
