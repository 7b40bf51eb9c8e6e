"""A request can narrow what the owner of the device set, never widen it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.route.allowed import Allowed, Fallback, Routing, allowed, strictest
from spillover.runtime.errors import InvalidRequest

ROUTINGS = st.builds(
    Routing,
    fallback=st.sampled_from([None, "never", "ask", "auto"]),
    only=st.sampled_from([None, "local_only", "cloud_only"]),
    prefer=st.sampled_from([None, "local", "cloud"]),
)
ORDER = ["never", "ask", "auto"]


@given(owner=ROUTINGS, request=ROUTINGS)
def test_no_request_ever_widens_what_the_owner_set(owner: Routing, request: Routing) -> None:
    try:
        result = allowed(owner, request)
    except InvalidRequest:
        return
    for side in (owner, request):
        assert side.fallback is None or ORDER.index(result.cloud) <= ORDER.index(side.fallback)
        assert not (side.only == "local_only" and result.may_leave)
        assert not (side.only == "cloud_only" and result.local)
    assert result.local or result.may_leave
    assert result.local if result.first == "local" else result.may_leave


@given(request=ROUTINGS)
def test_with_never_no_request_leaves_the_device(request: Routing) -> None:
    try:
        assert not allowed(Routing(fallback="never"), request).may_leave
    except InvalidRequest:
        assert request.only == "cloud_only"


@given(request=ROUTINGS)
def test_a_yes_to_each_is_never_turned_into_a_yes_to_all(request: Routing) -> None:
    try:
        assert allowed(Routing(fallback="ask"), request).cloud in ("never", "ask")
    except InvalidRequest:
        assert request.only == "cloud_only"


def test_nothing_leaves_when_nothing_was_configured() -> None:
    assert allowed(Routing(), Routing()) == Allowed(local=True, cloud="never", first="local")


def test_a_request_may_prefer_the_cloud_where_it_is_allowed() -> None:
    wish = Routing(prefer="cloud")
    assert allowed(Routing(fallback="auto"), wish).first == "cloud"
    assert allowed(Routing(fallback="never"), wish).first == "local"


def test_local_only_beats_the_owners_auto() -> None:
    asked = Routing(only="local_only", prefer="cloud")
    assert allowed(Routing(fallback="auto"), asked) == Allowed(
        local=True, cloud="never", first="local"
    )


@pytest.mark.parametrize(
    ("owner", "request_", "says"),
    [
        (Routing(fallback="never"), Routing(only="cloud_only"), "lets nothing leave"),
        (
            Routing(fallback="auto", only="cloud_only"),
            Routing(only="local_only"),
            "only with cloud",
        ),
        (Routing(fallback="auto"), Routing(only="cloud_only", fallback="never"), "no writer"),
    ],
)
def test_wishes_that_leave_nothing_are_refused_with_the_reason(
    owner: Routing, request_: Routing, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        allowed(owner, request_)
    assert caught.value.param == "routing"


@pytest.mark.parametrize(
    ("wishes", "result"),
    [
        ((), "never"),
        ((None, "auto"), "auto"),
        (("auto", "ask"), "ask"),
        (("ask", "never"), "never"),
    ],
)
def test_the_strictest_wish_wins(wishes: tuple[Fallback | None, ...], result: Fallback) -> None:
    assert strictest(*wishes) == result
