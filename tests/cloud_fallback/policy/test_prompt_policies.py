"""Rules, languages and tools: prompts that are not for the local model."""

from __future__ import annotations

import pytest

from spillover.cloud_fallback.policy.observation import LocalModel
from spillover.cloud_fallback.policy.prompt import check_rules, first_match
from spillover.cloud_fallback.policy.settings import PolicySettings, PromptRule
from spillover.runtime.engine import EngineStatus
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import GenerationRequest, Message
from spillover.runtime.text.languages import candidates, is_covered
from tests.cloud_fallback.policy.answers import Leg, asked

READY = EngineStatus(state="ready")
LEGAL = PromptRule(name="legal", words=("contract", "Vertrag", "c++"))
NUMBERS = PromptRule(name="numbers", pattern=r"\d{4,}")


def messages(*texts: str) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple(Message(role=roles[i % 2], content=t) for i, t in enumerate(texts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("Read this CONTRACT, please", 0),
        ("Ein Vertrag: was nun?", 0),
        ("I write c++ code", 0),
        ("subcontractors", None),
        ("add 12345 and 1", 1),
        ("nothing", None),
    ],
)
def test_rules_match_whole_words_and_patterns(text: str, place: int | None) -> None:
    assert first_match((LEGAL, NUMBERS), messages(text)) == place


def test_a_rule_looks_at_the_last_message_unless_it_says_otherwise() -> None:
    conversation = messages("my contract", "Yes?", "never mind")
    assert first_match((LEGAL,), conversation) is None
    whole = PromptRule(name="legal", words=("contract",), whole_conversation=True)
    assert first_match((whole,), conversation) == 0


def test_a_pattern_that_is_a_trap_for_other_engines_takes_no_time() -> None:
    trap = PromptRule(name="trap", pattern=r"^(a+)+$|(x*)*y")
    assert first_match((trap,), messages("a" * 100_000 + "!")) is None


def test_an_invalid_pattern_is_named() -> None:
    settings = PolicySettings(rules=(LEGAL, PromptRule(name="bad", pattern="(?=look)")))
    with pytest.raises(InvalidRequest, match=r"'bad'.*RE2") as error:
        check_rules(settings)
    assert error.value.param == "rules[1].pattern"


def test_a_rule_hands_over_before_the_start_and_before_all_else() -> None:
    leg = Leg(asked("my contract"), PolicySettings(rules=(NUMBERS, LEGAL)))
    reason = leg.before(EngineStatus(state="failed"), 5)
    assert reason is not None
    assert (reason.code, reason.signals) == ("rule", {"rule": 1})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Tell me a story about a dog named Max.", "en"),
        ("What is the capital of Sweden?", "en"),
        ("Erzähl mir bitte eine Geschichte über einen Hund und die Katze.", "de"),
        ("Raconte-moi une histoire sur un chat et un chien dans la maison.", "fr"),
        ("¿Cuál es la capital de Suecia y por qué?", "es"),
        ("Opowiedz mi o tym, jak to się dzieje i kto to jest.", "pl"),
        ("Расскажи мне сказку про кота.", "ru"),
        ("今日の天気はどうですか", "ja"),
        ("给我讲一个关于小狗的故事", "zh"),
        ("오늘 날씨가 어때요?", "ko"),
    ],
)
def test_languages_are_guessed_from_evidence(text: str, code: str) -> None:
    assert code in candidates(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hi!",
        "Max",
        "17 * 23 = ?",
        "haiku",
        "SELECT * FROM users",
        "Pizza Napoli",
        "la la la la",
    ],
)
def test_without_evidence_there_is_no_guess(text: str) -> None:
    assert candidates(text) == ()
    assert is_covered(text, ("en",))


def test_an_unknown_language_does_not_begin_here() -> None:
    german = asked("Was ist der Sinn und wie kann ich das für mich finden?")
    english = LocalModel(languages=("en",))
    reason = Leg(german, local=english).before()
    assert reason is not None
    assert reason.code == "language"
    assert Leg(german).before() is None
    both = PolicySettings(local_languages=("en", "de"))
    assert Leg(german, both, local=english).before() is None
    prompt = GenerationRequest(prompt="Was ist der Sinn und wie kann ich das finden?")
    assert Leg(prompt, local=english).before() is None
