"""What would happen to a request, as JSON."""

from __future__ import annotations

from typing import Any

from spillover.cloud_fallback.policy.reason import in_words
from spillover.cloud_fallback.route.explanation import Explanation, LocalOutlook, ProviderOutlook
from spillover.edge_server.wire.handoff import expected_cost, images_warning, writer


def explanation(value: Explanation) -> dict[str, Any]:
    """The object of POST /v1/route/explain. It holds no text of the request."""
    reason = value.reason
    return {
        "object": "route.explanation",
        "route": value.outlook,
        "in_words": _in_words(value),
        "reason": None if reason is None else reason.code,
        "reason_in_words": None if reason is None else in_words(reason.code),
        "signals": {} if reason is None else reason.signals,
        "allowed": {
            "local": value.allowed.local,
            "cloud": value.allowed.cloud,
            "first": value.allowed.first,
        },
        "conversation_stays_with": value.stays_with,
        "local": _local(value.local),
        "privacy": {"redacted": value.redacted, **images_warning(value.n_images)},
        "n_images": value.n_images,
        "providers": [_provider(each) for each in value.providers],
        "cloud_problem": value.cloud_problem,
    }


def _in_words(value: Explanation) -> str:
    because = "" if value.reason is None else f", because {in_words(value.reason.code)}"
    able = [each for each in value.providers if each.problem is None]
    match value.outlook:
        case "cloud":
            return f"{_name(able[0])} would answer{because}"
        case "ask":
            return f"the user would be asked whether {_name(able[0])} may answer{because}"
        case "local":
            nobody = because and "; no provider can be asked now"
            return f"{value.local.model} would answer on this device{nobody}"
        case "nobody":
            problems = [value.local.problem, *(each.problem for each in value.providers)]
            return "nobody can answer: " + "; ".join(filter(None, problems))


def _name(provider: ProviderOutlook) -> str:
    return f"{provider.writer.provider}/{provider.writer.model}"


def _local(local: LocalOutlook) -> dict[str, Any]:
    return {
        "model": local.model,
        "state": local.status.state,
        "n_queued": local.status.n_queued,
        "n_ctx": local.n_ctx,
        "n_prompt_tokens": local.n_prompt_tokens,
        "problem": local.problem,
    }


def _provider(provider: ProviderOutlook) -> dict[str, Any]:
    most = provider.max_completion_tokens
    return {
        **writer(provider.writer),
        "address": provider.address,
        "problem": provider.problem,
        "needs_consent": provider.needs_consent,
        "estimate": expected_cost(provider.estimate.cost(most)),
        "budget_allows_tokens": most,
    }
