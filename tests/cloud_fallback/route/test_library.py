"""A handoff in a program, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest

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
from spillover.runtime.errors import InvalidRequest
from tests.fakes.fake import Fake
from tests.fakes.script import Act

OPENAI = ProviderSettings(name="openai", dialect="openai", model="m")
REST = " Then a cloud came by and finished the story. The end."


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
    assert begun.startswith("Once")
    assert rest.strip() == REST.strip()
    assert fake.requests[0].headers["authorization"] == "Bearer sk-canary-4711"


def test_without_a_provider_the_local_model_answers_alone(
    engine: LocalEngine, tmp_path: Path
) -> None:
    settings = CloudSettings(fallback="auto", data_dir=tmp_path)
    shown = tell_a_story(engine, settings, {})
    assert shown.startswith("Once")
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
