"""What is private is found whole, what is not is left alone, and nothing takes forever."""

# ruff: noqa: RUF001 - full-width characters

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.privacy.detectors.account import passes_luhn, passes_mod_97
from spillover.cloud_fallback.privacy.finder import Finder
from spillover.cloud_fallback.privacy.plain import PlainText, Span, merged
from spillover.cloud_fallback.privacy.settings import KINDS, PrivacySettings, UserPattern
from spillover.runtime.errors import InvalidRequest

from .corpora import HARMLESS, PRIVATE, unmarked

FINDER = Finder(PrivacySettings())


def found(text: str, finder: Finder = FINDER) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in finder.find(text)]


@pytest.mark.parametrize(("kind", "marked"), PRIVATE, ids=[text for _, text in PRIVATE])
def test_private_text_is_found_completely_and_nothing_else(kind: str, marked: str) -> None:
    text, places = unmarked(marked)
    assert found(text) == [(kind, text[start:end]) for start, end in places]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_harmless_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_private_texts_are_found_in_a_long_text_with_everything_in_it() -> None:
    marked = "\n\n".join(text for _, text in PRIVATE if "-----BEGIN" not in text)
    text, places = unmarked(marked)
    left = set(range(len(text))).difference(
        *(range(span.start, span.end) for span in FINDER.find(text))
    )
    assert [
        text[start:end] for start, end in places if not left.isdisjoint(range(start, end))
    ] == []


@pytest.mark.parametrize(
    "text",
    [
        "a" * 200_000,
        "a." * 100_000,
        "@" * 200_000,
        "a@" * 100_000,
        "a@a." * 50_000,
        "1" * 200_000,
        "1 " * 100_000,
        "0-" * 100_000,
        "+1" * 100_000,
        ":" * 200_000,
        "1:" * 100_000,
        "1." * 100_000,
        "AB12" * 50_000,
        "[at]" * 50_000,
        " at dot " * 20_000,
        "password:" * 7_000,
        "password is " * 5_000,
        "token_" * 10_000,
        "-----BEGIN PRIVATE KEY-----" * 500,
        "password " * 3_750,
        "password-" * 3_750,
        "the key of " * 3_750,
        "key:" * 5_000,
        '"key","' * 3_750,
        "|password" * 3_750,
        "password,x\n" * 2_500,
        "<td>token</td>" * 2_000,
        "<tr><th>pin" * 2_500,
        "my pin is 1 " * 2_500,
        "authorization: a " * 2_000,
        "curl -u " * 3_750,
        "Cookie: a=" * 3_000,
        "WIFI:P:" * 3_750,
        "sas is sv=" * 3_000,
        "sas:s=&" * 3_750,
        "echo -n 1" * 3_000,
        "echo a | -stdin" * 2_000,
        "openssl a -k" * 3_000,
        "a=b password=c " * 2_500,
        "\napi-key: hamster" * 2_000,
        "api key is abc-12-" * 2_000,
        "passport AB12" * 2_500,
        "ssn 1 " * 5_000,
        "1111\n" * 5_000,
        "D E 8 9 " * 3_750,
        '"a@' * 7_500,
        "a_at_b_dot_" * 2_500,
        "%25" * 15_000,
        "seed phrase: " * 2_000,
        "fox " * 7_500,
        "密码是" * 7_500,
        "bearer " * 10_000,
        "http://a:" * 20_000,
        "call " * 40_000,
        "eyJaaaaaaaa." * 15_000,
        "\u200b" * 200_000,
        "\\u0040" * 30_000,
        "(" * 200_000,
        "%40" * 60_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_texts_made_to_be_slow_are_looked_through(text: str) -> None:
    places = [0, *(place for found in FINDER.find(text) for place in (found.start, found.end))]
    assert places == sorted(places)
    assert places[-1] <= len(text)


@given(st.text(alphabet=st.sampled_from("ab1２\u200b\u00ad\u00a0＠@.\\n%40u"), max_size=40))
def test_every_place_of_the_plain_text_leads_back_to_the_original(raw: str) -> None:
    plain = PlainText(raw)
    last = 0
    for index in range(len(plain.text)):
        start, end = plain.raw_span(index, index + 1)
        assert last <= start < end <= len(raw)
        last = end
        assert PlainText(raw[start:end]).text == plain.text[index]


@pytest.mark.parametrize("before", [r"\ud83d\ude00", r"\ud83d", r"\ude00 \ud83d", "\ud83d"])
def test_characters_in_two_halves_do_not_stop_the_search(before: str) -> None:
    """As JSON writes what lies beyond U+FFFF; half a character cannot be read by RE2."""
    assert found(f"{before} mail a@example.com") == [("email", "a@example.com")]
    assert found(f"{before}password: hamster1") == [("secret", "hamster1")]


@given(st.lists(st.builds(Span, st.integers(0, 50), st.integers(51, 60), st.sampled_from("ab"))))
def test_overlapping_finds_are_one_that_covers_all(spans: list[Span]) -> None:
    result = merged(spans)
    covered = {i for span in spans for i in range(span.start, span.end)}
    assert covered == {i for span in result for i in range(span.start, span.end)}
    assert all(a.end <= b.start for a, b in pairwise(result))


def test_of_overlapping_kinds_the_first_names_the_whole() -> None:
    assert merged([Span(5, 9, "a"), Span(0, 6, "b"), Span(8, 12, "c")]) == [Span(0, 12, "a")]


@given(st.integers(10**12, 10**18))
def test_every_wrong_digit_fails_the_card_check(number: int) -> None:
    digits = str(number)
    check = next(d for d in "0123456789" if passes_luhn(digits + d))
    assert sum(passes_luhn(digits + d) for d in "0123456789") == 1
    wrong = str((int(digits[0]) + 1) % 10) + digits[1:]
    assert not passes_luhn(wrong + check)


@given(st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=11, max_size=30))
def test_exactly_one_pair_of_check_digits_makes_an_iban(account: str) -> None:
    good = [n for n in range(2, 99) if passes_mod_97(f"DE{n:02d}{account}")]
    assert len(good) == 1


def test_only_the_wanted_kinds_are_looked_for() -> None:
    finder = Finder(PrivacySettings(kinds=("card",)))
    assert found("a@example.com 4111 1111 1111 1111", finder) == [("card", "4111 1111 1111 1111")]
    assert found("a@example.com", Finder(PrivacySettings(kinds=()))) == []


def test_numbers_of_other_countries_need_their_code() -> None:
    finder = Finder(PrivacySettings(phone_regions=("DE",)))
    assert found("415-555-2671", finder) == []
    assert found("+1 415-555-2671", finder) == [("phone", "+1 415-555-2671")]


def test_what_is_allowed_may_leave() -> None:
    finder = Finder(PrivacySettings(allow=("Support@example.com",)))
    assert found("support@example.com or me@example.com", finder) == [("email", "me@example.com")]


# The user's own patterns.


def with_pattern(pattern: str, name: str = "order") -> Finder:
    return Finder(PrivacySettings(patterns=(UserPattern(name=name, pattern=pattern),)))


def test_a_pattern_of_the_users_own_is_found_first() -> None:
    finder = with_pattern(r"ORD-\d+", "order_id")
    assert found("see ORD-4111111111111111", finder) == [("order_id", "ORD-4111111111111111")]


def test_only_the_group_of_a_pattern_is_taken_out() -> None:
    assert found("Patient: Jane Roe.", with_pattern(r"Patient: (\w+ \w+)")) == [
        ("order", "Jane Roe")
    ]


def test_a_pattern_sees_through_tricks_too() -> None:
    assert found("ORD-\u200b１２３", with_pattern(r"ORD-\d+")) == [("order", "ORD-\u200b１２３")]
    assert found("№ 5", with_pattern("№ 5")) == [("order", "№ 5")]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        (r"(a)\1", "no backreferences"),
        (r"(?=a)b", "look-around"),
        ("(", "missing"),
        ("a*", "empty text"),
        ("((a{1,1000}){1,1000}){1,1000}", "not valid in RE2"),
    ],
)
def test_an_invalid_or_unbounded_pattern_is_refused_at_once(pattern: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        with_pattern(pattern)
    assert caught.value.param == "patterns[0].pattern"
    assert "'order'" in str(caught.value)


def test_a_pattern_made_to_be_slow_is_not() -> None:
    assert found("a" * 50_000, with_pattern("(a+)+b")) == []


@pytest.mark.parametrize("name", [*KINDS, "Email"])
def test_a_pattern_cannot_take_the_name_of_a_kind(name: str) -> None:
    with pytest.raises(InvalidRequest, match="taken"):
        with_pattern("x", name)


@pytest.mark.parametrize(
    "text",
    [
        "DE89 3704 0044 0532 0130 00 4111 1111 1111 1111 12/27",
        "4111 1111 1111 1111 5555 5555 5555 4444",
        "12 4111 1111 1111 1111 123",
        "4111 1111 1111 1111 3rd of May",
        "12 34 56 78 90 12 34 56 4111 1111 1111 1111",
        "AB12 CD34 DE89 3704 0044 0532 0130 00",
        "+1 415 555 2671 12 times",
        "+1 415 555 2671 +1 415 555 2672",
        "030 901820, 0171 1234567",
        "call 030 901820\n0171 1234567",
        "020 7946 0958/020 7946 0958",
        "1-800-555-0199 089 1234567",
        "030/901820+14155552671",
        "415 555 2671 4111-1111-1111-1111",
    ],
)
def test_numbers_side_by_side_do_not_hide_each_other(text: str) -> None:
    left = text
    for _, private in found(text):
        left = left.replace(private, "")
    assert not any(n in left for n in ("1111", "5555", "3704", "2671", "2672", "901820", "0958"))
    assert "1234567" not in left
