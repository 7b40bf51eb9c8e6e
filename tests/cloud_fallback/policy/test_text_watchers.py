"""Leaked markers, scripts, refusals, JSON and coverage: the same under any chunking."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.policy.text.coverage import PromptCoverage
from spillover.cloud_fallback.policy.text.leaks import Leaks
from spillover.cloud_fallback.policy.text.refusals import Refusals
from spillover.cloud_fallback.policy.text.scripts import Scripts
from spillover.runtime.request import JsonObject, JsonSchema
from tests.cloud_fallback.policy.answers import Leg, asked, finished, token, words


def chunks(text: str, cuts: list[int]) -> list[str]:
    """*text* cut at some of its places."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(places)]


CUTS = st.lists(st.integers(0, 10_000), max_size=30)


# Leaked control tokens


@given(
    before=st.text("abc <[#\n|", max_size=40),
    marker=st.sampled_from(["<|im_end|>", "[INST]", "<start_of_turn>", "\nUser:", "<<SYS>>"]),
    after=st.text("abc <[#\n|", max_size=10),
    cuts=CUTS,
)
def test_a_leaked_marker_is_found_where_it_begins(
    before: str, marker: str, after: str, cuts: list[int]
) -> None:
    leaks, at = Leaks(""), 0
    for chunk in chunks(before + marker + after, cuts):
        leaks.feed(chunk, at)
        at += len(chunk)
    assert leaks.found_at == (before + marker + after).index(marker)


def test_the_beginning_of_a_marker_is_open_until_it_is_none() -> None:
    leaks = Leaks("")
    leaks.feed("Hello <", 0)
    assert not leaks.is_open  # a lone "<" is too common to hold text back for
    leaks.feed("|im", 7)
    assert leaks.is_open
    leaks.feed("portant|> stuff", 10)
    assert not leaks.is_open
    assert leaks.found_at is None


def test_markers_that_the_user_speaks_of_are_allowed() -> None:
    leaks = Leaks("What does <|im_end|> mean?")
    leaks.feed("<|im_end|> ends a turn, <|im_start|> begins one.", 0)
    assert leaks.found_at == len("<|im_end|> ends a turn, ")


def test_a_marker_never_reaches_the_client() -> None:
    leg = Leg()
    leg.begin()
    pieces = ["All", " is", " well", ".", "<|", "im", "_", "end", "|>", "\n"]
    verdicts = leg.feed([token(piece) for piece in pieces])
    assert verdicts == ["pass"] * 4 + ["hold"] * 4 + ["handoff"]
    reason = leg.watch.reason
    assert reason is not None
    assert (reason.code, reason.keep_chars) == ("template_leak", len("All is well."))


def test_markers_in_a_code_block_are_text() -> None:
    leg = Leg(asked("Explain chat templates"))
    leg.begin()
    assert "handoff" not in leg.feed([token(t) for t in ("```", "\n", "<|im_end|>", "\n", "```")])


# Scripts


@given(CUTS)
def test_an_answer_that_lapses_into_another_script_is_found(cuts: list[int]) -> None:
    good = "The weather is nice today and we could go to the beach. "
    text = good + "今天天气很好我们可以去海滩玩得开心一点吧好吗朋友"
    scripts, at = Scripts(["How is the weather today?"], 16), 0
    for chunk in chunks(text, cuts):
        scripts.feed(chunk, at)
        at += len(chunk)
    assert scripts.found_at == len(good)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Who was Confucius?", "Confucius (孔夫子) was a Chinese philosopher of the Zhou dynasty."),
        (
            "Translate 'good morning' into Chinese.",
            "早上好早上好早上好早上好早上好早上好早上好早上好",
        ),
        ("How do you say that in Russian?", "Доброе утро, как ваши дела сегодня, мой друг"),
        ("1 + 1?", "Доброе утро, как ваши дела сегодня, мой друг"),
        (
            "今日の天気はどうですか教えてください",
            "東京は晴れです。気温は二十度くらいになるでしょう。",
        ),
        ("Как написать программу на языке Python?", "print('hello') import sys def main(argv)"),
        ("Расскажи, пожалуйста, про компанию Google", "Google LLC — американская компания"),
    ],
)
def test_scripts_that_belong_there_are_not_foreign(prompt: str, answer: str) -> None:
    scripts = Scripts([prompt], 16)
    scripts.feed(answer, 0)
    assert scripts.found_at is None


def test_an_english_answer_to_a_russian_question_is_foreign() -> None:
    scripts = Scripts(["Расскажи мне короткую сказку про кота"], 16)
    scripts.feed(
        "Once upon a time there was a little cat who lived in a big house near the sea.", 0
    )
    assert scripts.found_at == 0


# Refusals


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I cannot assist with this request.",  # noqa: RUF001
        "As an AI language model, I do not have access to current data.",
        "I don't know. Please ask someone who knows.",
        "I only know simple stories. Would you like one?",
        "Unfortunately, I am unable to browse the web.",
        "Oh no, that is too hard for me.",
        "Es tut mir leid, ich kann das leider nicht beantworten.",
    ],
)
@given(cuts=CUTS)
def test_refusals_are_recognised_as_they_come(text: str, cuts: list[int]) -> None:
    refusals = Refusals(160)
    for chunk in chunks(text, cuts):
        refusals.feed(chunk)
    assert refusals.found


@pytest.mark.parametrize(
    "text",
    [
        "I think that the answer is 12.",
        "I like to read. I can't wait for the next book of the series!",
        "The bear said: I don't know where my honey is.",
        "Sorry to hear that! Try to drink some water and rest.",
        "I know a story. " * 20 + "I cannot tell it to anybody.",
        "This is a simple recipe: I use two eggs.",
        'Once upon a time there was a fox. "I don\'t know," said the fox.',
    ],
)
@given(cuts=CUTS)
def test_answers_are_no_refusals(text: str, cuts: list[int]) -> None:
    refusals = Refusals(160)
    for chunk in chunks(text, cuts):
        refusals.feed(chunk)
    assert not refusals.found


def test_a_refusal_is_held_back_and_then_dropped() -> None:
    leg = Leg()
    leg.begin()
    verdicts = leg.feed(words("I am sorry, I don't know that. I only tell stories."))
    assert set(verdicts[:-1]) == {"hold"}
    assert verdicts[-1] == "handoff"
    reason = leg.watch.reason
    assert reason is not None
    assert (reason.code, reason.keep_chars) == ("refusal", 0)


def test_an_answer_that_begins_like_a_refusal_is_released() -> None:
    leg = Leg()
    leg.begin()
    text = "I think so. " + " ".join(f"word{chr(97 + i % 26) * (i // 26 + 1)}" for i in range(80))
    verdicts = leg.feed(words(text))
    assert verdicts[0] == "hold"
    assert verdicts[-1] == "pass"
    assert verdicts.count("hold") < 30


# JSON


def test_prose_where_json_was_asked_for_is_broken_at_once() -> None:
    leg = Leg(asked(response_format=JsonObject()))
    leg.begin()
    assert leg.feed(words("Sure! Here is the JSON:"))[0] == "handoff"
    reason = leg.watch.reason
    assert reason is not None
    assert (reason.code, reason.keep_chars) == ("schema", 0)


def test_json_is_kept_up_to_where_it_breaks() -> None:
    leg = Leg(asked(response_format=JsonSchema(schema={"type": "array"})))
    leg.begin()
    leg.feed([token(piece) for piece in ("[", "1", ", ", "2", " and", " so", " on")])
    reason = leg.watch.reason
    assert reason is not None
    assert (reason.code, reason.keep_chars) == ("schema", len("[1, 2 "))


def test_json_that_misses_its_schema_is_found_at_the_end() -> None:
    schema = {"type": "object", "required": ["name"]}
    for text, expected in (('{"age": 3}', "schema"), ('{"name": "Max"}', None)):
        leg = Leg(asked(response_format=JsonSchema(schema=schema)))
        leg.begin()
        leg.feed([token(text)])
        reason = leg.watch.finished(finished(n=1))
        assert (reason.code if reason else None) == expected


# Words of the prompt


@given(CUTS)
def test_words_count_as_said_however_they_are_cut(cuts: list[int]) -> None:
    coverage = PromptCoverage("Tell me a story about a dog named Max and 12 kites.")
    assert coverage.uncovered == 1.0
    for chunk in chunks("A dog flew its kite. ", cuts):
        coverage.feed(chunk)
    assert coverage.uncovered == pytest.approx(3 / 4)
    for chunk in chunks("MAX has 12 KITES!", cuts):
        coverage.feed(chunk)
    assert coverage.uncovered == 0.0


def test_a_prompt_without_content_words_is_covered() -> None:
    for prompt in ("", "Please tell me a story.", "给我讲一个关于小狗的故事。"):
        assert PromptCoverage(prompt).uncovered == 0.0
