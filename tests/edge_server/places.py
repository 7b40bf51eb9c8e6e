"""Waits until a server is in the state that a test needs."""

from __future__ import annotations

import httpx

from tests.waiting import wait_until


def states(http: httpx.Client) -> list[str]:
    """What each slot is doing."""
    return [slot["state"] for slot in http.get("/slots").json()]


def all_idle(http: httpx.Client) -> bool:
    return set(states(http)) == {"idle"}


def wait_for_the_places(http: httpx.Client, n_places: int = 8) -> None:
    """Until the server has noticed which clients left: only then does it accept an answer that
    takes every slot and every place in the queue."""
    body = {"prompt": "Once", "n": n_places, "max_tokens": 1}
    wait_until(lambda: http.post("/v1/completions", json=body).status_code == 200)
