"""JSON of which one writer wrote the beginning and another the end is one valid document."""

from __future__ import annotations

import json
from collections.abc import Callable

import jsonschema
import pytest

from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.runtime.request import JsonSchema
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import Desk, end, handoffs, text
from tests.fakes.fake import Fake
from tests.fakes.script import Act

TALE = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "minLength": 10, "maxLength": 60},
        "n": {"type": "integer", "minimum": 100, "maximum": 999},
        "is_true": {"type": "boolean"},
    },
    "required": ["text", "n", "is_true"],
    "additionalProperties": False,
}
DOCUMENT = '{"text": "Once \\"upon\\" a\\n \\u00e9 time 🦊 a fox", "n": 123, "is_true": true}'
CLOUD_FIRST = RouteOptions(routing=Routing(prefer="cloud"))
REQUEST = ask(response_format=JsonSchema(schema=TALE), max_tokens=200)


NO_CHARACTER = DOCUMENT.index("9")
"""The local model's grammar cannot end this escape."""


@pytest.mark.parametrize("at", [n for n in range(1, len(DOCUMENT)) if n != NO_CHARACTER])
def test_the_local_model_ends_what_the_cloud_began(desk: Desk, fake: Fake, at: int) -> None:
    """In a name, a string, an escape, a number, a word or between them."""
    begun = DOCUMENT[:at]
    fake.script(Act(chunks=(begun,), no_terminal=True))
    events = desk.ask(REQUEST, CLOUD_FIRST)
    assert text(events).startswith(begun)
    jsonschema.validate(json.loads(text(events)), TALE)
    assert end(events).reason == "stop"
    assert [h.target.origin for h in handoffs(events)] == ["cloud", "local"]


@pytest.mark.parametrize("at", range(1, len(DOCUMENT), 2))
def test_the_next_provider_ends_what_the_first_one_began(
    make_desk: MakeDesk, make_fake: Callable[[], Fake], at: int
) -> None:
    first, second = make_fake(), make_fake()
    desk = make_desk(first, second)
    first.script(Act(chunks=(DOCUMENT[:at],), no_terminal=True))
    second.script(Act(text=DOCUMENT))
    events = desk.ask(REQUEST, CLOUD_FIRST)
    assert text(events) == DOCUMENT
    assert [h.target.provider for h in handoffs(events)] == ["fake-1", "fake-2"]


@pytest.mark.parametrize("escape", ["\\u00e", "\\ud83e", "\\ud83e\\udd"])
def test_an_escape_that_no_writer_completes_is_interrupted(
    desk: Desk, fake: Fake, escape: str
) -> None:
    """The local model's grammar writes such characters as they are."""
    begun = '{"text": "Once ' + escape
    fake.script(Act(chunks=(begun,), no_terminal=True))
    events = desk.ask(REQUEST, CLOUD_FIRST)
    assert text(events) == begun
    assert end(events).reason == "interrupted"
