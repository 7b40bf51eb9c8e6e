"""Stream tokens from models on this device, and hand running answers over to the cloud and back.

Nothing is loaded before it is used: `import spillover` itself takes a millisecond.
"""

TYPE_CHECKING = False  # as typing has it; importing typing takes longer than all else here
if TYPE_CHECKING:
    from spillover.cloud_fallback.events import ConsentAnswered as ConsentAnswered
    from spillover.cloud_fallback.events import ConsentAsked as ConsentAsked
    from spillover.cloud_fallback.events import Handoff as Handoff
    from spillover.cloud_fallback.events import ProviderFailed as ProviderFailed
    from spillover.cloud_fallback.events import Replace as Replace
    from spillover.cloud_fallback.events import Seam as Seam
    from spillover.cloud_fallback.events import StreamEvent as StreamEvent
    from spillover.cloud_fallback.policy.settings import PolicySettings as PolicySettings
    from spillover.cloud_fallback.privacy.settings import PrivacySettings as PrivacySettings
    from spillover.cloud_fallback.providers.settings import ProviderSettings as ProviderSettings
    from spillover.cloud_fallback.route.allowed import Routing as Routing
    from spillover.cloud_fallback.route.cloud_settings import CloudSettings as CloudSettings
    from spillover.cloud_fallback.route.router import Router as Router
    from spillover.cloud_fallback.route.settings import RouteOptions as RouteOptions
    from spillover.cloud_fallback.route.settings import RouteSettings as RouteSettings
    from spillover.cloud_fallback.spending.limits import BudgetLimits as BudgetLimits
    from spillover.cloud_fallback.spending.limits import BudgetSettings as BudgetSettings
    from spillover.cloud_fallback.spending.prices import Prices as Prices
    from spillover.models.catalogue import default_model as default_model
    from spillover.runtime.cancellation import Cancellation as Cancellation
    from spillover.runtime.embedding_request import EmbeddingRequest as EmbeddingRequest
    from spillover.runtime.errors import ContextOverflow as ContextOverflow
    from spillover.runtime.errors import EngineBusy as EngineBusy
    from spillover.runtime.errors import EngineError as EngineError
    from spillover.runtime.errors import InvalidRequest as InvalidRequest
    from spillover.runtime.errors import ModelError as ModelError
    from spillover.runtime.errors import SpilloverError as SpilloverError
    from spillover.runtime.events import Delta as Delta
    from spillover.runtime.events import Embedded as Embedded
    from spillover.runtime.events import Finished as Finished
    from spillover.runtime.events import Loading as Loading
    from spillover.runtime.events import Prefilling as Prefilling
    from spillover.runtime.events import Queued as Queued
    from spillover.runtime.events import ReasoningDelta as ReasoningDelta
    from spillover.runtime.events import ToolCallDelta as ToolCallDelta
    from spillover.runtime.events import Usage as Usage
    from spillover.runtime.local_engine import LocalEngine as LocalEngine
    from spillover.runtime.options import EngineOptions as EngineOptions
    from spillover.runtime.request import GenerationRequest as GenerationRequest
    from spillover.runtime.request import JsonSchema as JsonSchema
    from spillover.runtime.request import Message as Message
    from spillover.runtime.request import Tool as Tool
    from spillover.runtime.request import ToolCall as ToolCall
    from spillover.runtime.sampling import Sampling as Sampling

_MODULES = {
    "cloud_fallback.events": (
        "ConsentAnswered",
        "ConsentAsked",
        "Handoff",
        "ProviderFailed",
        "Replace",
        "Seam",
        "StreamEvent",
    ),
    "cloud_fallback.policy.settings": ("PolicySettings",),
    "cloud_fallback.privacy.settings": ("PrivacySettings",),
    "cloud_fallback.providers.settings": ("ProviderSettings",),
    "cloud_fallback.route.allowed": ("Routing",),
    "cloud_fallback.route.cloud_settings": ("CloudSettings",),
    "cloud_fallback.route.router": ("Router",),
    "cloud_fallback.route.settings": ("RouteOptions", "RouteSettings"),
    "cloud_fallback.spending.limits": ("BudgetLimits", "BudgetSettings"),
    "cloud_fallback.spending.prices": ("Prices",),
    "models.catalogue": ("default_model",),
    "runtime.cancellation": ("Cancellation",),
    "runtime.embedding_request": ("EmbeddingRequest",),
    "runtime.errors": (
        "ContextOverflow",
        "EngineBusy",
        "EngineError",
        "InvalidRequest",
        "ModelError",
        "SpilloverError",
    ),
    "runtime.events": (
        "Delta",
        "Embedded",
        "Finished",
        "Loading",
        "Prefilling",
        "Queued",
        "ReasoningDelta",
        "ToolCallDelta",
        "Usage",
    ),
    "runtime.local_engine": ("LocalEngine",),
    "runtime.options": ("EngineOptions",),
    "runtime.request": ("GenerationRequest", "JsonSchema", "Message", "Tool", "ToolCall"),
    "runtime.sampling": ("Sampling",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*_MODULE_OF]


if not TYPE_CHECKING:  # type checkers would take it for "any name is there"

    def __getattr__(name: str) -> object:
        """Import *name* from its module when it is first used (PEP 562)."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'spillover' has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"spillover.{_MODULE_OF[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
