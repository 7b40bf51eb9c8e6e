"""Everything a user can set on the server."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from spillover.cloud_fallback.route.allowed import Fallback
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.edge_server.config.model_settings import ModelSettings
from spillover.edge_server.resume.lifetime import ResumeLimits
from spillover.edge_server.wire.dialect import KeepAlive
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import AnswerDefaults
from spillover.runtime.setting_help import Help, NoSetting, Table


class Settings(Struct, frozen=True, kw_only=True):
    """Settings of `spillover serve`. Each field has its default, range and help text."""

    model: Annotated[
        str,
        Help(
            "Name of `spillover models`, GGUF file, ONNX file, or a folder with one of them.",
            default="the model pulled last, or the bundled one",
        ),
    ] = ""
    models_dir: Annotated[
        str,
        Help(
            "Folder for models that are pulled, other than those in Hugging Face's own cache.",
            default="the user's data folder",
        ),
    ] = ""
    alias: Annotated[
        str,
        Help(
            "Name that clients see; more names, after commas, are known, too.",
            flag="--alias",
            default="the model's own name",
        ),
    ] = ""
    """Empty: the catalogue name or the file's stem."""
    models: Annotated[tuple[ModelSettings, ...], Table()] = field(default=(), name="local_model")
    """Models that are served beside the one of `model`, or instead of it: the first one then
    answers requests that name none."""
    models_memory_mb: Annotated[
        Annotated[float, Meta(ge=1, le=16_777_216)] | None,
        Help(
            "Memory (MiB) for all loaded models together.",
            default="what the device has free",
        ),
    ] = None
    """Those that were used least recently are unloaded to make room."""
    model_keep_alive_s: Annotated[
        float,
        Meta(ge=-1, le=315_360_000),
        Help(
            "Seconds after its last answer for which a model stays loaded; -1: until another one "
            "needs its memory."
        ),
    ] = -1.0
    hosts: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=253)], ...],
        Meta(min_length=1, max_length=16),
        Help(
            "Address to listen on. One that other machines can reach needs an API key.",
            flag="--host",
        ),
    ] = field(default=("127.0.0.1",), name="host")
    port: Annotated[
        int,
        Meta(ge=0, le=65_535),
        Help("Port to listen on; 0 picks a free one and prints it.", flag="--port"),
    ] = 8080
    ollama_port: Annotated[
        int,
        Meta(ge=0, le=65_535),
        Help(
            "Second port, for clients that look for Ollama at 11434; 0: none. Both serve all.",
            flag="--ollama-port",
        ),
    ] = 0
    api_keys: Annotated[
        tuple[Annotated[str, Meta(min_length=8, max_length=512)], ...],
        Help(
            "Key that a client must send. Other users of this machine can see flags.",
            flag="--api-key",
            variable="SPILLOVER_API_KEY",
            is_secret=True,
        ),
    ] = ()
    """Any of them opens the endpoint. Without one, only loopback is served, and to everybody."""
    allowed_hosts: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=253)], ...],
        Help(
            "Name by which other machines ask; addresses and this device's own name need none.",
            flag="--allowed-host",
            variable="SPILLOVER_ALLOWED_HOST",
        ),
    ] = ()
    """Loopback and the bound addresses are always allowed, and once one that others can reach is
    bound, any address and the device's own name: of another name, a page of a stranger may be."""
    allowed_origins: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=253)], ...],
        Help(
            "Web page or desktop app that may use the endpoint: app://obsidian.md.",
            flag="--allowed-origin",
            variable="SPILLOVER_ALLOWED_ORIGIN",
        ),
    ] = ()
    """Without one, only pages of the server itself."""
    keep_alive: Annotated[
        KeepAlive,
        Help("What a silent stream gets: a comment line, an event that adds nothing, or nothing."),
    ] = "comment"
    max_responses: Annotated[
        int,
        Meta(ge=0, le=100_000),
        Help("Most answers of /v1/responses that can be read again or continued by their id."),
    ] = 256
    """In memory, at most 32 MiB of them. 0 keeps none."""
    keep_alive_s: Annotated[
        float,
        Meta(gt=0, le=300),
        Help("Seconds of silence after which a stream gets a sign of life (keep_alive)."),
    ] = 1.0
    head_timeout_s: Annotated[
        float, Meta(gt=0, le=3_600), Help("Seconds in which a request's headers must arrive.")
    ] = 10.0
    body_timeout_s: Annotated[
        float, Meta(gt=0, le=3_600), Help("Seconds in which a request's body must arrive.")
    ] = 30.0
    write_timeout_s: Annotated[
        float,
        Meta(gt=0, le=3_600),
        Help("Seconds after which a client that reads nothing is disconnected."),
    ] = 30.0
    max_body_bytes: Annotated[
        int, Meta(ge=1_024, le=2**30), Help("Largest request body, in bytes.")
    ] = 8 * 2**20
    max_connections: Annotated[
        int, Meta(ge=1, le=100_000), Help("Most connections at the same time.")
    ] = 512
    max_generation_s: Annotated[
        float, Meta(gt=0, le=86_400), Help("Seconds after which an answer is ended.")
    ] = 3_600.0
    shutdown_grace_s: Annotated[
        float, Meta(ge=0, le=600), Help("Seconds running streams may go on after a signal to stop.")
    ] = 5.0
    resume: ResumeLimits = field(default_factory=ResumeLimits)
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Help("Least severe messages to log; debug logs each request, too.", flag="--log-level"),
    ] = "info"
    answers: AnswerDefaults = field(default_factory=AnswerDefaults)
    cloud: CloudSettings = field(default_factory=CloudSettings)
    policy_given: Annotated[frozenset[str], NoSetting()] = frozenset()
    """The keys that the table [policy] has."""
    engine: EngineOptions = field(default_factory=EngineOptions)

    @property
    def fallbacks(self) -> dict[str, Fallback]:
        """That of each model with a table of its own, and as "" that of all others."""
        own = {model.name: model.cloud(self.cloud).fallback for model in self.models}
        return {"": self.cloud.fallback, **own}

    @property
    def aliases(self) -> tuple[str, ...]:
        return tuple(name for part in self.alias.split(",") if (name := part.strip()))
