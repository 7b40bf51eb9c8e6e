"""What a provider receives of a request to a real server, and what the client reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.edge_server.conftest import Server
from tests.edge_server.routed import Answer, follow, hand_over, routed_server
from tests.fakes.fake import Fake
from tests.fakes.script import Act

SECRETS = {
    "key": "3f9a7c1e5b2d4860a1c3e5f70918b2d4",
    "password": "Tr33house",
    "card": "4111\n1111\n1111\n1111",
    "mail": '"jane doe"@example.org',
    "iban": "DE89  3704  0044  0532  0130  00",
    "ssn": "123-45-6789",
    "mac": "52:54:00:12:34:56",
    "wifi": "gr3en-tea",
    "argument": "hunter2222",
    "result": "9c2e7f1a4b8d0356",
}
TOOL: Any = {
    "type": "function",
    "function": {"name": "log_in", "parameters": {"type": "object", "properties": {}}},
}
CALL: Any = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "log_in", "arguments": f'{{"password": "{SECRETS["argument"]}"}}'},
}
MESSAGES: Any = [
    {"role": "system", "content": f"export AZURE_OPENAI_KEY={SECRETS['key']}"},
    {
        "role": "user",
        "content": (
            f"| user | password |\n|---|---|\n| bob | {SECRETS['password']} |\n\n"
            f"My card:\n{SECRETS['card']}\n\nWrite to {SECRETS['mail']}, IBAN {SECRETS['iban']}, "
            f"SSN {SECRETS['ssn']}, MAC {SECRETS['mac']}, WIFI:T:WPA;S:Home;P:{SECRETS['wifi']};;"
        ),
    },
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": f"token={SECRETS['result']}"},
    {"role": "user", "content": "Tell me a story about a fox named Ruby."},
]


@pytest.fixture(scope="module")
def cloud() -> Iterator[Fake]:
    fake = Fake()
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cloud: Fake) -> Iterator[Server]:
    server = routed_server(tmp_path_factory.mktemp("private"), cloud)
    yield server
    assert server.stop() == 0


def secrets_sent_to(cloud: Fake) -> list[str]:
    """Of all requests so far, as the JSON that the provider reads."""
    bodies = [json.loads(request.body) for request in cloud.requests]
    assert bodies
    sent = json.dumps(bodies, ensure_ascii=False)
    spelled = [json.dumps(secret)[1:-1] for secret in SECRETS.values()]
    parts = ("1111", "jane", "3704", "6789", "52:54")
    return [secret for secret in (*spelled, *parts) if secret in sent]


def ask(server: Server, **more: Any) -> Answer:
    return follow(server, **{"messages": MESSAGES, "tools": [TOOL], **more})


@pytest.mark.parametrize("chunk_chars", [1, 2, 3, 7, 1000])
def test_no_secret_reaches_the_provider_and_all_come_back(
    server: Server, cloud: Fake, chunk_chars: int
) -> None:
    """Cut into chunks of any length, each placeholder in the answer becomes the original."""
    names = [f"[SECRET_{n}]" for n in range(1, 6)]
    names += ["[CARD_1]", "[EMAIL_1]", "[IBAN_1]", "[NATIONAL_ID_1]", "[MAC_ADDRESS_1]"]
    said = "Yours: " + ", ".join(names)
    cloud.reset()
    cloud.script(Act(text=said, chunk_chars=chunk_chars))
    answer = ask(server, spillover={"only": "cloud_only"})
    assert secrets_sent_to(cloud) == []
    assert sorted(answer.text.removeprefix("Yours: ").split(", ")) == sorted(SECRETS.values())
    assert answer.finish == ["stop"]


def test_no_secret_leaves_when_a_running_answer_is_handed_over(server: Server, cloud: Fake) -> None:
    cloud.reset()
    said = "The key was [SECRET_1]. The end."
    cloud.script(Act(text=said, rest=f" {said}", chunk_chars=2))
    messages = [*MESSAGES[:2], {"role": "assistant", "content": "Yes?"}, MESSAGES[-1]]
    answer = ask(server, on_chunk=hand_over(server), messages=messages, tools=[])
    assert secrets_sent_to(cloud) == []
    assert answer.text.endswith(f"The key was {SECRETS['key']}. The end.")
