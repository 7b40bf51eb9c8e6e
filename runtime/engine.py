"""The interface that a local model and a cloud provider share."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal, Protocol

from msgspec import Struct

from spillover.runtime.cancellation import Cancellation
from spillover.runtime.device_bytes import DeviceBytes
from spillover.runtime.embedding_request import EmbeddingRequest, Pooling
from spillover.runtime.events import EngineEvent
from spillover.runtime.request import GenerationRequest


class Engine(Protocol):
    """Anything that answers a request as a stream."""

    @property
    def name(self) -> str: ...

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        """Yield the events of one answer; close() or *cancellation* ends it early.

        After a cancellation the unfinished choices end with Finished(reason="cancelled").
        Raises InvalidRequest or EngineBusy before the first event, EngineError at any time.
        """
        ...


class FimTokens(Struct, frozen=True, kw_only=True):
    """Token ids of a model that can fill in the middle: prefix, suffix, then the text in between.
    *repo* and *file* start a repository and each of its files, if the model has them."""

    prefix: int
    suffix: int
    middle: int
    repo: int | None = None
    file: int | None = None


class EmbeddingCard(Struct, frozen=True, kw_only=True):
    """How a model turns texts into vectors or scores."""

    pooling: Pooling
    n_ctx: int
    """Most tokens of one input."""
    n_values: int
    """Numbers of a vector."""
    normalizes: bool = True
    """Vectors are meant to have the length 1."""
    is_logit: bool = False
    """Of a model that ranks: its scores are logits, any number; otherwise from 0 to 1."""


class ModelCard(Struct, frozen=True, kw_only=True):
    """Facts about a loaded model, for /v1/models, doctor and the logs."""

    name: str
    architecture: str
    description: str
    n_params: int
    size_bytes: int
    draft_model_bytes: int = 0
    """Of the weights of the small model that proposes tokens."""
    memory: DeviceBytes | None = None
    """What it was planned to take of each device; None: all of the host."""
    gpu_free_bytes: tuple[int, ...] = ()
    """What was free on each GPU with memory of its own, before it took its part; empty: it was
    planned without one."""
    n_vocab: int
    n_ctx_train: int
    n_ctx: int
    """Most tokens per sequence (prompt and answer)."""
    n_kv: int
    """KV cells shared by all sequences."""
    kv_bytes: int = 0
    """What they take when all are full."""
    kv_cache_type: str = ""
    """Their format."""
    n_batch: int = 0
    """Most tokens of one call."""
    layout: str = ""
    """How the context is laid out, for people to read."""
    layout_reason: str = ""
    """Why so: by an estimate, or found by loading."""
    n_parallel: int
    n_threads: int
    has_chat_template: bool
    has_reasoning: bool = False
    """Its chat template knows tags of reasoning."""
    use_extra_bufts: bool
    """False when weight repacking is off, as after a crash at load."""
    repacking_fits: bool = True
    """False: it is off because memory was too small."""
    fim: FimTokens | None = None
    """None: the model cannot fill in the middle."""
    device: str = "CPU"
    """The device that computes, for display."""
    library: str = ""
    """The library that computes, with its version."""
    engine_reason: str = ""
    """Why this library, such as "a GPU was found"."""
    warnings: tuple[str, ...] = ()
    path: str = ""
    chat_template: str = ""
    """Its source."""
    bos_text: str = ""
    eos_text: str = ""
    generates: bool = True
    """False: it is made for vectors or scores, and writes no answers."""
    embedding: EmbeddingCard | None = None
    """None: it gives neither vectors nor scores."""


class SlotState(Struct, frozen=True, kw_only=True):
    """One of the n_parallel places of the scheduler; n_tokens are in its KV cache."""

    id: int
    state: Literal["idle", "prefill", "decode"]
    n_tokens: int


class PrefixCounts(Struct, frozen=True, kw_only=True):
    """What was kept of conversations that have ended, and what it was good for since the start."""

    n_reused: int = 0
    """Prompts that began with something that was kept."""
    n_reused_tokens: int = 0
    """Their tokens that were not read again."""
    n_restored: int = 0
    """Prompts among them that began with saved states."""
    n_saved: int = 0
    """States in memory now."""
    saved_bytes: int = 0
    n_dropped: int = 0
    """States that were dropped because others needed their memory."""
    n_written: int = 0
    """States that were written to disk."""


class EngineStatus(Struct, frozen=True, kw_only=True):
    """A snapshot of a local engine."""

    state: Literal["unloaded", "loading", "ready", "restarting", "failed", "closed", "hung"]
    """unloaded: the next request loads it. hung: its process exists but does not respond."""
    slots: tuple[SlotState, ...] = ()
    n_queued: int = 0
    n_background: int = 0
    """Answers of the background that run or wait; the latter are not among *n_queued*."""
    n_kv_used: int = 0
    prefixes: PrefixCounts = PrefixCounts()
    n_restarts: int = 0
    power_saving: str = ""
    """Why it computes with less power; empty: it does not."""
    detail: str = ""


class ConversationPrompt(Struct, frozen=True, kw_only=True):
    """What the model reads of a conversation."""

    text: str
    n_tokens: int


class TextEngine(Engine, Protocol):
    """An engine that also shows its tokenizer and state: what the local endpoint serves."""

    @property
    def card(self) -> ModelCard: ...
    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> tuple[int, ...]: ...
    def detokenize(self, token_ids: tuple[int, ...]) -> bytes:
        """The bytes of *token_ids*; InvalidRequest when one is outside the vocabulary."""
        ...

    def pieces(self, token_ids: tuple[int, ...]) -> tuple[bytes, ...]:
        """The bytes of each of *token_ids*; InvalidRequest as detokenize()."""
        ...

    def health(self) -> EngineStatus:
        """What is known of it at once: without slots and counts."""
        ...

    def apply_template(self, request: GenerationRequest) -> ConversationPrompt:
        """The prompt of a conversation as the model reads it; InvalidRequest as stream()."""
        ...

    def embed(
        self, request: EmbeddingRequest, cancellation: Cancellation | None = None
    ) -> Generator[EngineEvent]:
        """Yield the vectors or scores of the inputs as they are ready; otherwise as stream()."""
        ...

    def status(self) -> EngineStatus: ...
