"""From the path of a model to a backend that can decode, and what goes with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct, structs

from spillover.models.errors import ModelFileError
from spillover.models.libraries import INSTALL_LLAMA
from spillover.models.onnx_folder import is_onnx
from spillover.models.small_files import read_small
from spillover.runtime.backend import Backend, Vocabulary
from spillover.runtime.chat.chat_template import CHATML, ChatTemplate
from spillover.runtime.conversions.choice import EngineChoice
from spillover.runtime.conversions.store import ConversionStore, is_intact
from spillover.runtime.embedding.embedder import Embedder
from spillover.runtime.embedding.opened import OpenedEmbedder, OpenedModel
from spillover.runtime.engine import ModelCard
from spillover.runtime.errors import ModelError, shortage_in
from spillover.runtime.files.json_file import fingerprint
from spillover.runtime.fit.planner import Planner
from spillover.runtime.machine.llama_trial import NOT_INSTALLED
from spillover.runtime.options import EngineOptions
from spillover.runtime.worker.self_test import self_test


class LoadedModel(Struct, frozen=True, kw_only=True):
    """What a worker serves."""

    backend: Backend
    embedder: Embedder | None
    template: ChatTemplate
    card: ModelCard
    weights: tuple[Path, ...]
    """The files that hold its weights."""
    fingerprint: str
    """Names the model, the library and the settings that its speed depends on."""
    choice: EngineChoice
    """The engine that was chosen, or the one that had to take its place."""


class LoadedEmbedder(Struct, frozen=True, kw_only=True):
    """What a worker serves that makes vectors or scores and nothing else."""

    embedder: Embedder
    vocabulary: Vocabulary
    card: ModelCard
    choice: EngineChoice


def load(
    path: Path,
    name: str,
    options: EngineOptions,
    choice: EngineChoice | None = None,
    on_progress: Callable[[float], None] | None = None,
    planner: Planner | None = None,
) -> LoadedModel | LoadedEmbedder:
    """Check the file, fit the context to the memory, load, compute a token. ModelError says what is
    wrong.

    *choice*: which engine serves the file; None: the one that reads it as it is. *on_progress* is
    told which share of the weights has been read, where the library tells that. *planner* lays out
    the context.
    """
    planner = planner or Planner(options)
    given = _template_source(options)
    choice = choice or _as_it_is(path)
    opened, choice = _open(path, options, choice, on_progress, planner)
    if isinstance(opened, OpenedEmbedder):
        warnings = (*choice.warnings, *opened.card.warnings, *_unheard_by(opened.card, options))
        card = structs.replace(opened.card, name=name, path=str(path), warnings=warnings)
        return LoadedEmbedder(
            embedder=opened.embedder, vocabulary=opened.vocabulary, card=card, choice=choice
        )
    info = opened.backend.info
    source = given or info.chat_template
    template = ChatTemplate(source, bos_text=info.bos_text, eos_text=info.eos_text, name=name)
    return LoadedModel(
        backend=opened.backend,
        embedder=opened.embedder,
        template=template,
        card=_card(path, opened, name, template, choice),
        weights=opened.weights,
        fingerprint=_fingerprint(opened),
        choice=choice,
    )


def _template_source(options: EngineOptions) -> str | None:
    """The chat template that the owner wants; None: the model's own. Raises ModelError."""
    path, given = options.chat_template_file, options.chat_template
    if path is None:
        if given and given != "chatml" and "{" not in given:
            raise ModelError(
                f"chat_template: {given[:80]!r} is not a Jinja template: give its text, the name "
                "chatml, or a file with chat_template_file"
            )
        return CHATML if given == "chatml" else given or None
    if given:
        raise ModelError("chat_template and chat_template_file exclude each other: set one")
    try:
        content = read_small(path)
    except ModelFileError as error:
        raise ModelError(f"chat_template_file: {error}") from error
    if not content:
        raise ModelError(f"chat_template_file: {path} is missing or empty")
    return content.decode("utf-8", "replace")


def _as_it_is(path: Path) -> EngineChoice:
    return EngineChoice(engine="onnx" if is_onnx(path) else "llama", reason="")


def _open(
    path: Path,
    options: EngineOptions,
    choice: EngineChoice,
    on_progress: Callable[[float], None] | None,
    planner: Planner,
) -> tuple[OpenedModel | OpenedEmbedder, EngineChoice]:
    """With the library of the engine that was chosen, or of the one that had to take its place;
    the other one is not even imported."""
    if is_onnx(path):
        if options.engine == "llama":
            raise ModelError(f"engine is llama, but {path} is an ONNX model: leave engine at auto")
        return _tested(_open_onnx(path, options, planner)), choice
    if choice.conversion is not None:
        try:
            return _open_conversion(choice.conversion, options, planner), choice
        except ModelError as error:
            if choice.llama_problem:
                raise
            choice = EngineChoice(engine="llama", reason=str(error), warnings=(str(error),))
    elif choice.engine == "onnx":
        raise ModelError(
            f"{path} cannot run on ONNX Runtime ({choice.reason}): there is no conversion of it. "
            f"`spillover engines {path}` makes one or says why it cannot; else {INSTALL_LLAMA}"
        )
    if choice.llama_problem not in ("", NOT_INSTALLED):  # loading it may end this process
        raise ModelError(f"{path} cannot run on llama.cpp: {choice.llama_problem}")
    from spillover.runtime.llama.opening.opening import open_any_gguf

    return _tested(open_any_gguf(path, options, on_progress, planner)), choice


def _open_conversion(
    folder: Path, options: EngineOptions, planner: Planner
) -> OpenedModel | OpenedEmbedder:
    """Raises ModelError, and removes the conversion, when it is damaged or cannot compute."""
    store = ConversionStore(options.cache_dir)
    if not is_intact(folder):
        store.discard(folder)
        raise ModelError(
            f"the conversion {folder} was damaged and is removed: the next start makes it again"
        )
    opened = _open_onnx(folder, options, planner)
    try:
        _tested(opened)
    except ModelError as error:
        if not shortage_in(str(error)):
            store.note_failure(folder, str(error), is_final=True)
        raise ModelError(f"the conversion {folder} is not used: {error}") from error
    store.note_use(folder)
    return opened


def _tested(opened: OpenedModel | OpenedEmbedder) -> OpenedModel | OpenedEmbedder:
    """It, if it can compute; closed otherwise."""
    try:
        self_test(opened)
    except ModelError:
        (opened.embedder if isinstance(opened, OpenedEmbedder) else opened.backend).close()
        raise
    return opened


def _open_onnx(
    path: Path, options: EngineOptions, planner: Planner
) -> OpenedModel | OpenedEmbedder:
    from spillover.runtime.onnx.opening import open_any_onnx

    return open_any_onnx(path, options, planner=planner)


def _card(
    path: Path, opened: OpenedModel, name: str, template: ChatTemplate, choice: EngineChoice
) -> ModelCard:
    info, fit = opened.backend.info, opened.fit
    return ModelCard(
        name=name,
        architecture=info.architecture,
        description=info.description,
        n_params=info.n_params,
        size_bytes=info.size_bytes,
        draft_model_bytes=info.draft_model_bytes,
        memory=opened.memory,
        gpu_free_bytes=opened.gpu_free_bytes,
        n_vocab=info.n_vocab,
        n_ctx_train=info.n_ctx_train,
        n_ctx=fit.n_ctx,
        n_kv=info.n_kv,
        kv_bytes=fit.kv_bytes,
        kv_cache_type=fit.kv_cache_type,
        n_batch=info.n_batch,
        repacking_fits=fit.use_extra_bufts,
        layout=fit.in_words(),
        layout_reason=fit.reason,
        n_parallel=fit.n_parallel,
        n_threads=info.n_threads,
        has_chat_template=not template.is_substitute,
        has_reasoning=bool(template.tag_pairs),
        use_extra_bufts=info.use_extra_bufts,
        fim=info.fim,
        device=info.device,
        library=info.library,
        engine_reason=choice.reason,
        warnings=(
            *choice.warnings,
            *fit.warnings,
            *info.warnings,
            *template.warnings,
        ),
        path=str(path),
        chat_template=template.source,
        bos_text=info.bos_text,
        eos_text=info.eos_text,
        embedding=None if opened.embedder is None else opened.embedder.card,
    )


def _unheard_by(card: ModelCard, options: EngineOptions) -> tuple[str, ...]:
    """The owner's settings without an effect on a model that makes vectors or scores only."""
    settings = {
        "draft_model": options.draft_model is not None,
        "kv_cache_type": options.kv_cache_type not in (None, "f16"),
        "n_kv": options.n_kv is not None,
        "n_parallel": options.n_parallel not in (None, 1),
        "prefix_disk": options.prefix_disk == "all",
        "chat_template": bool(options.chat_template),
        "chat_template_file": options.chat_template_file is not None,
    }
    names = [name for name, is_set in settings.items() if is_set]
    warnings = [f"{name} has no effect: the model writes no answers" for name in names]
    pooling = None if card.embedding is None else card.embedding.pooling
    if options.pooling not in ("auto", pooling):
        warnings.append(f"pooling has no effect: the model's own is {pooling}")
    return tuple(warnings)


def _fingerprint(opened: OpenedModel) -> str:
    info = opened.backend.info
    return fingerprint(
        info.architecture,
        info.description,
        info.n_params,
        info.size_bytes,
        info.n_vocab,
        info.library,
        info.n_threads,
        info.n_batch,
        opened.speed_facts,
    )
