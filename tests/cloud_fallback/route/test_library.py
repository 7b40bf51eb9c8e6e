"""A handoff in a program, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from spillover import (
    CloudSettings,
    Delta,
    GenerationRequest,
    Handoff,
    LocalEngine,
    Message,
    ProviderSettings,
    RouteOptions,
    Router,
    Sampling,
)
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.privacy.settings import PrivacySettings, UserPattern
from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.spending.limits import BudgetLimits, BudgetSettings
from spillover.runtime.errors import EngineClosed, InvalidRequest
from tests.answers import REST
from tests.fakes.fake import Fake
from tests.fakes.script import Act

OPENAI = ProviderSettings(name="openai", dialect="openai", model="m")


def tell_a_story(engine: LocalEngine, settings: CloudSettings, environ: dict[str, str]) -> str:
    ask = Message(role="user", content="Tell me a story about a fox named Ruby.")
    request = GenerationRequest(messages=(ask,), sampling=Sampling(temperature=0))
    options = RouteOptions()
    shown = ""
    with Router.open(engine, settings, environ) as router:
        for event in router.stream(request, options):
            if isinstance(event, Handoff):
                shown += f"[{event.reason}: {event.target.provider or event.target.model}]"
            elif isinstance(event, Delta):
                shown += event.text
            if len(shown) > 60:
                router.hand_over(options.id)
    return shown


def test_ten_lines_show_a_handoff(engine: LocalEngine, fake: Fake, tmp_path: Path) -> None:
    fake.script(Act(rest=REST))
    provider = ProviderSettings(
        name="cloudy", dialect="openai", model="m", base_url=f"{fake.url}/v1"
    )
    settings = CloudSettings(fallback="auto", providers=(provider,), data_dir=tmp_path)
    shown = tell_a_story(engine, settings, {"OPENAI_API_KEY": "sk-canary-4711"})
    begun, rest = shown.split("[user: cloudy]")
    assert begun
    assert rest.strip() == REST.strip()
    assert fake.requests[0].headers["authorization"] == "Bearer sk-canary-4711"


def test_without_a_provider_the_local_model_answers_alone(
    engine: LocalEngine, tmp_path: Path
) -> None:
    settings = CloudSettings(fallback="auto", data_dir=tmp_path)
    shown = tell_a_story(engine, settings, {})
    assert shown
    assert "[" not in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        (CloudSettings(fallback="auto", providers=(OPENAI, OPENAI)), "provider"),
        (
            CloudSettings(
                fallback="auto",
                providers=(OPENAI,),
                budget=BudgetSettings(providers={"opnai": BudgetLimits(usd_per_day=1)}),
            ),
            "budget.providers",
        ),
        (
            CloudSettings(
                fallback="auto",
                providers=(OPENAI,),
                privacy=PrivacySettings(patterns=(UserPattern(name="A", pattern="("),)),
            ),
            "privacy.patterns[0].pattern",
        ),
        (CloudSettings(fallback="Never", providers=(OPENAI,)), "fallback"),  # type: ignore[arg-type]
        (
            CloudSettings(
                fallback="auto",
                providers=(OPENAI,),
                policy=PolicySettings(switched_off=("bttery",)),  # type: ignore[arg-type]
            ),
            "policy.switched_off[0]",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(
    engine: LocalEngine, settings: CloudSettings, param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Router.open(engine, settings, {})
    assert refused.value.param == param


def test_nothing_leaves_for_a_misspelt_wish(
    engine: LocalEngine, fake: Fake, tmp_path: Path
) -> None:
    provider = ProviderSettings(
        name="cloudy", dialect="openai", model="m", base_url=f"{fake.url}/v1"
    )
    settings = CloudSettings(
        fallback="auto", prefer="cloud", providers=(provider,), data_dir=tmp_path
    )
    options = RouteOptions(routing=Routing(only="local-only"))  # type: ignore[arg-type]
    request = GenerationRequest(messages=(Message(role="user", content="Hello"),))
    with (
        Router.open(engine, settings, {"OPENAI_API_KEY": "sk-canary-4711"}) as router,
        pytest.raises(InvalidRequest, match=r"routing\.only.*cloud_only, local_only") as refused,
    ):
        next(router.stream(request, options))
    assert refused.value.param == "routing.only"
    assert not fake.requests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": None}, "settings must be a CloudSettings, not None"),
        ({"settings": {"fallback": "auto"}}, "settings must be a CloudSettings, not a dict"),
        ({"environ": None}, "environ must be a Mapping, not None"),
        ({"local": None}, "local must be a LocalEngine, not None"),
        ({"local": "model.gguf"}, "local must be a LocalEngine, not a str"),
    ],
)
def test_arguments_of_another_type_say_what_to_give(
    engine: LocalEngine, arguments: dict[str, Any], message: str
) -> None:
    """They used to end in an AttributeError."""
    usual: dict[str, Any] = {"local": engine, "settings": CloudSettings(), "environ": {}}
    with pytest.raises(InvalidRequest, match=message):
        Router.open(**usual | arguments)


@pytest.mark.parametrize(
    "settings", [CloudSettings(), CloudSettings(fallback="auto", providers=(OPENAI,))]
)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"request": None}, "request must be a GenerationRequest, not None"),
        ({"request": {"messages": []}}, "request must be a GenerationRequest, not a dict"),
        ({"request": GenerationRequest(messages=None)}, "messages"),  # type: ignore[arg-type]
        ({"request": GenerationRequest(messages=("Hello",))}, "messages"),  # type: ignore[arg-type]
        ({"options": {"mode": "continue"}}, "options must be a RouteOptions, not a dict"),
        ({"options": RouteOptions(routing={"only": "moon"})}, "routing"),  # type: ignore[arg-type]
        ({"cancellation": "now"}, "cancellation must be a Cancellation, not a str"),
    ],
)
def test_a_request_of_another_type_says_what_to_give(
    engine: LocalEngine,
    tmp_path: Path,
    settings: CloudSettings,
    arguments: dict[str, Any],
    message: str,
) -> None:
    settings = replace(settings, data_dir=tmp_path)
    usual: dict[str, Any] = {
        "request": GenerationRequest(messages=(Message(role="user", content="Hi"),))
    }
    with Router.open(engine, settings, {}) as router, pytest.raises(InvalidRequest, match=message):
        next(router.stream(**usual | arguments))


def test_providers_may_be_given_as_the_tables_of_a_file(
    engine: LocalEngine, tmp_path: Path
) -> None:
    table: Any = {"name": "openai", "dialect": "openai", "model": "m"}
    settings = CloudSettings(fallback="auto", providers=(table,), data_dir=tmp_path)
    with Router.open(engine, settings, {"OPENAI_API_KEY": "sk-canary-4711"}) as router:
        assert router.cloud_problem() is None


@pytest.mark.parametrize(
    "settings", [CloudSettings(), CloudSettings(fallback="auto", providers=(OPENAI,))]
)
def test_a_closed_router_answers_nothing(
    engine: LocalEngine, tmp_path: Path, settings: CloudSettings
) -> None:
    router = Router.open(engine, replace(settings, data_dir=tmp_path), {})
    router.close()
    router.close()
    request = GenerationRequest(messages=(Message(role="user", content="Hi"),))
    with pytest.raises(EngineClosed, match="this router is closed"):
        next(router.stream(request))
    assert router.cloud_problem() == "the router is closed"
    assert not router.hand_over("any")
