"""Everything a user can set on the server: one value, and the only place of its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from spillover.cloud_fallback.events import HandoffMode
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.privacy.settings import PrivacySettings
from spillover.cloud_fallback.providers.provider import ProviderSettings
from spillover.cloud_fallback.route.routing import Fallback
from spillover.cloud_fallback.spending.limits import BudgetSettings
from spillover.edge_server.resume.lifetime import Limits
from spillover.runtime.events import Origin
from spillover.runtime.options import EngineOptions


class CloudSettings(Struct, frozen=True, kw_only=True):
    """What stands in tables of the configuration file; flags and variables have none of it."""

    providers: tuple[ProviderSettings, ...] = ()
    """[[provider]], in the order in which they are asked; machines next door go first."""
    policy: PolicySettings = field(default_factory=PolicySettings)
    """[policy]"""
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    """[privacy]"""
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    """[budget]"""


class Settings(Struct, frozen=True, kw_only=True):
    """Settings of `spillover serve`; where each value may come from is config.py's business."""

    model: str = ""
    """A catalogue name, a GGUF file, or an ONNX file or folder; empty: the bundled model."""
    alias: str = ""
    """The name clients see; empty: the catalogue name or the file's stem."""
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    """0: a free port, printed at start."""
    api_keys: tuple[Annotated[str, Meta(min_length=8, max_length=512)], ...] = ()
    """Any of these opens the endpoint; none: no key is asked for, on loopback only."""
    allowed_hosts: tuple[Annotated[str, Meta(min_length=1, max_length=253)], ...] = ()
    """Host names, besides loopback and the bound address, that a request may name."""
    keep_alive_s: Annotated[float, Meta(gt=0, le=300)] = 1.0
    """A stream that is silent for this long gets a comment line."""
    head_timeout_s: Annotated[float, Meta(gt=0, le=3_600)] = 10.0
    """A request's head must be complete after this long."""
    body_timeout_s: Annotated[float, Meta(gt=0, le=3_600)] = 30.0
    """And its body after this long."""
    write_timeout_s: Annotated[float, Meta(gt=0, le=3_600)] = 30.0
    """A client that takes no bytes for this long is cut off."""
    max_body_bytes: Annotated[int, Meta(ge=1_024, le=2**30)] = 8 * 2**20
    max_connections: Annotated[int, Meta(ge=1, le=100_000)] = 512
    max_generation_s: Annotated[float, Meta(gt=0, le=86_400)] = 3_600.0
    """A generation is ended after this long, whatever it does."""
    shutdown_grace_s: Annotated[float, Meta(ge=0, le=600)] = 5.0
    """Running streams may go on for this long after SIGTERM."""
    resume_grace_s: Annotated[float, Meta(ge=0, le=3_600)] = 60.0
    """A resumable answer that nobody follows goes on for this long; then it is cancelled."""
    resume_keep_s: Annotated[float, Meta(ge=0, le=86_400)] = 300.0
    """And once it has ended, it can be read for this long."""
    resume_log_bytes: Annotated[int, Meta(ge=4_096, le=2**30)] = 4 * 2**20
    """So much of it is kept: the newest events."""
    max_resumable: Annotated[int, Meta(ge=0, le=10_000)] = 32
    """Resumable answers at a time, running and ended ones; 0: none are offered."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    fallback: Fallback = "never"
    """Whether answers may leave the device; "ask": each time only with a yes."""
    prefer: Origin = "local"
    """Who writes first, where both may."""
    handoff_mode: HandoffMode = "continue"
    max_handoffs: Annotated[int, Meta(ge=1, le=16)] = 4
    max_cloud_tokens: Annotated[int, Meta(ge=16, le=10_000_000)] = 32_768
    consent_timeout_s: Annotated[float, Meta(gt=0, le=600)] = 60.0
    warms_connections: bool = True
    proxy: Annotated[str, Meta(pattern=r"^(http://[^@\s/]+/?)?\Z")] = ""
    """"http://host:port" for all providers but those next door; the environment's do not count."""
    data_dir: Path | None = None
    """Where spending, handoffs and calibrations are kept. None: the user's data folder."""
    cloud: CloudSettings = field(default_factory=CloudSettings)
    engine: EngineOptions = field(default_factory=EngineOptions)

    @property
    def resume_limits(self) -> Limits:
        return Limits(
            grace_s=self.resume_grace_s,
            keep_s=self.resume_keep_s,
            log_bytes=self.resume_log_bytes,
            max_streams=self.max_resumable,
        )
