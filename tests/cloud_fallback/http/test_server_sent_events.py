"""Server-sent events are cut by their own rules, wherever the network cuts."""

from __future__ import annotations

from itertools import pairwise, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.http.errors import Malformed
from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.http.server_sent_events import TAIL_BYTES, ServerSentEvents

ENDS = ("\n", "\r", "\r\n")


def events(*chunks: bytes) -> list[Frame]:
    stream = ServerSentEvents()
    frames = [frame for chunk in chunks for frame in stream.feed(chunk)]
    return [*frames, *stream.end()]


def data(*chunks: bytes) -> list[bytes]:
    return [frame.data for frame in events(*chunks)]


@pytest.mark.parametrize("end", ENDS)
def test_every_kind_of_line_end_counts(end: str) -> None:
    text = f"event: a{end}data: 1{end}{end}data: 2{end}{end}".encode()
    assert events(text) == [Frame(name="a", data=b"1"), Frame(data=b"2")]


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\0"])
def test_nothing_else_ends_a_line(odd: str) -> None:
    assert data(f"data: a{odd}b\n\n".encode()) == [f"a{odd}b".encode()]


def test_the_line_feed_of_a_pair_may_come_later() -> None:
    assert data(b"data: 1\r", b"\ndata: 2\r", b"\n\r", b"\n") == [b"1\n2"]


def test_only_one_line_feed_belongs_to_a_carriage_return() -> None:
    """The second one used to be swallowed, and the event with it."""
    assert ServerSentEvents().feed(b"data: 1\r\n\n") == [Frame(data=b"1")]
    stream = ServerSentEvents()
    found = [stream.feed(piece) for piece in (b"data: 1\r", b"", b"\n", b"\n")]
    assert found == [[], [], [], [Frame(data=b"1")]]


def test_an_event_that_ends_in_carriage_returns_is_there_at_once() -> None:
    assert ServerSentEvents().feed(b"data: 1\r\r") == [Frame(data=b"1")]


def test_lines_of_data_are_joined() -> None:
    assert data(b"data: a\ndata: b\ndata:\ndata:c\n\n") == [b"a\nb\n\nc"]


def test_only_one_space_after_the_colon_is_dropped() -> None:
    assert data(b"data:a\n\ndata: b\n\ndata:  c\n\n") == [b"a", b"b", b" c"]


def test_comments_pings_and_other_fields_are_no_events() -> None:
    assert data(b": ping\n\nid: 7\n\nretry: 10\n\nevent: x\n\n:\n\ndata: 1\n\n") == [b"1"]


def test_a_name_does_not_outlive_its_event() -> None:
    frames = events(b"event: x\n\ndata: 1\n\n")
    assert frames == [Frame(data=b"1")]


def test_a_byte_order_mark_is_skipped() -> None:
    assert data(b"\xef", b"\xbb\xbfda", b"ta: 1\n\n") == [b"1"]


def test_a_last_event_may_lack_its_empty_line() -> None:
    assert data(b"data: 1\n\ndata: 2\n") == [b"1", b"2"]


def test_a_last_line_without_an_end_is_not_an_event() -> None:
    stream = ServerSentEvents()
    assert stream.feed(b'data: 1\n\ndata: {"half":') == [Frame(data=b"1")]
    assert stream.end() == []
    assert stream.tail == b'data: {"half":'


def test_the_tail_holds_text_that_is_not_an_event_yet() -> None:
    stream = ServerSentEvents()
    stream.feed(b'data: 1\n\n{\n  "error": {"code": 503}\n}')
    assert stream.tail == b'{\n  "error": {"code": 503}\n}'


def test_the_tail_is_what_follows_the_last_event() -> None:
    stream = ServerSentEvents()
    stream.feed(b"junk: 1\n\ndata: 1\n\n")
    assert stream.tail == b""


def test_the_tail_is_bounded() -> None:
    stream = ServerSentEvents()
    for n in range(2000):
        stream.feed(b"junk %d\n" % n * 10)
    assert len(stream.tail) <= TAIL_BYTES
    assert stream.tail.endswith(b"junk 1999\n")


@pytest.mark.parametrize(
    "piece",
    [b"data: " + b"x" * 99, b"data: xxxxxxxxx\n", b"x" * 100],
    ids=["line", "lines", "junk"],
)
def test_an_event_that_grows_without_end_is_abandoned(piece: bytes) -> None:
    stream = ServerSentEvents(max_event_bytes=1000)
    with pytest.raises(Malformed, match="more than 1000 bytes"):
        [stream.feed(data) for data in repeat(piece, 1000)]


texts = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[Frame]]:
    """A stream and its events."""
    said, expected = [], []
    for _ in range(draw(st.integers(0, 5))):
        end = draw(st.sampled_from(ENDS))
        space = draw(st.sampled_from(("", " ")))
        name = draw(texts)
        lines = draw(st.lists(texts, min_size=1, max_size=3))
        if draw(st.booleans()):
            said.append(f": {draw(texts)}{end}")
        said.append(f"event: {name}{end}")
        said += [f"data:{space}{line}{end}" for line in lines]
        said.append(end)
        # Without a space of ours, one of the text's own counts as the separator.
        found = [line if space else line.removeprefix(" ") for line in lines]
        expected.append(Frame(name=name, data="\n".join(found).encode()))
    return "".join(said).encode(), expected


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(borders)]


@given(streams(), st.lists(st.integers(0, 10_000), max_size=20))
def test_any_cut_gives_the_same_events(made: tuple[bytes, list[Frame]], places: list[int]) -> None:
    stream, expected = made
    assert events(stream) == expected
    assert events(*cut(stream, places)) == expected
    assert events(*(bytes([byte]) for byte in stream)) == expected


awkward = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"data:", b"data: x", b"event: e", b":", b"junk", b"\xef\xbb\xbf"]
    )
).map(b"".join)


@given(st.binary(max_size=300) | awkward, st.lists(st.integers(0, 10_000), max_size=20))
def test_any_bytes_give_the_same_events_however_they_are_cut(
    stream: bytes, places: list[int]
) -> None:
    whole, pieces = ServerSentEvents(), ServerSentEvents()
    expected = whole.feed(stream) + whole.end()
    found = [frame for piece in cut(stream, places) for frame in pieces.feed(piece)]
    assert found + pieces.end() == expected
    assert pieces.tail == whole.tail
