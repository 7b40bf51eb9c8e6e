"""The server that the scripts of this folder ask, and what they ask it. They run in an environment
of their own, made by `.ci/setup-clients`, so that they share nothing with the tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

URL = os.environ["SPILLOVER_URL"]
QUESTION = "Tell me a story about a fox named Ruby."
TOO_LONG = "a b " * 20_000

Error = TypeVar("Error", bound=Exception)


class Weather(BaseModel):
    """The weather of a city; small enough for every call to fit into the answer."""

    model_config = ConfigDict(extra="forbid")

    city: Annotated[str, Field(max_length=8)]
    days: Annotated[int, Field(ge=1, le=9)]


def raised(kind: type[Error] | tuple[type[Error], ...], ask: Callable[[], object]) -> Error:
    """The error of this *kind* that *ask* raises."""
    try:
        ask()
    except kind as error:
        return error
    raise AssertionError("there was no error")
