"""Several writers, one answer: the parts of the seam as route drives them."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from spillover.cloud_fallback.events import Replace, SeamKind
from spillover.cloud_fallback.seam.answer_text import AnswerText, Piece
from spillover.cloud_fallback.seam.continuation import Continuation, plan_continuation
from spillover.cloud_fallback.seam.limits import VisibleLimit
from spillover.cloud_fallback.seam.machine import SeamMachine
from spillover.runtime.events import Origin
from tests.cloud_fallback.seam.corpus import ALL, ASKED, ECHOES, PREAMBLES, PROSE, SIZES, pieces_of


class Answer:
    """One answer on its way to a client."""

    def __init__(self, stops: tuple[str, ...] = (), *, can_replace: bool = False) -> None:
        self.request = replace(ASKED, stop=stops)
        self.can_replace = can_replace
        self.text = AnswerText(stops)
        self.client = ""
        self.seams: list[SeamKind | None] = []

    def send(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            for sent in self.text.feed(piece):
                if isinstance(sent, Replace):
                    assert self.can_replace
                    self.client = self.client[: sent.keep_chars]
                else:
                    self.client += sent

    def leg(
        self,
        write: Callable[[Continuation], str],
        sizes: list[int],
        *,
        target: Origin = "cloud",
        prefill: bool = False,
        breaks_off: bool = False,
        keep_chars: int | None = None,
        tokens_left: int | None = None,
    ) -> None:
        """A writer takes over; where it *breaks_off*, what the seam still holds is dropped."""
        plan = plan_continuation(
            self.request,
            self.text.said,
            target=target,
            prefill=prefill,
            can_replace=self.can_replace,
            keep_chars=keep_chars,
        )
        if plan.takes_back:
            self.send([Replace(keep_chars=plan.keep_chars)])
        seam, limit = SeamMachine(plan), VisibleLimit(tokens_left)
        for piece in pieces_of(write(plan), sizes):
            for new in seam.feed(piece, 0.0):
                self.send([limit.feed(new) if isinstance(new, str) else new])
            if self.text.stopped or limit.is_over:
                break
        if not (breaks_off or self.text.stopped or limit.is_over):
            self.send(seam.end())
        self.seams.append(seam.settled)

    def finish(self) -> str:
        self.send(self.text.flush())
        return self.client


def goes_on(
    answer: str, until: int, echo: Callable[[str], str] = str, preamble: str = ""
) -> Callable[[Continuation], str]:
    """A writer that knows how *answer* goes on, up to a place."""

    def write(plan: Continuation) -> str:
        begin = len(plan.shown)
        repeats = preamble + echo(plan.anchor) if plan.join == "echo" else ""
        if plan.join == "restart":
            begin = 0
        return repeats + answer[begin:until]

    return write


@given(
    st.sampled_from(sorted(ALL)),
    st.lists(
        st.tuples(
            st.integers(1, 60),
            st.sampled_from(["cloud", "local"]),
            st.sampled_from(ECHOES),
            st.sampled_from(PREAMBLES),
            st.booleans(),
            SIZES,
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_whoever_writes_which_part_the_answer_is_one(
    name: str,
    legs: list[tuple[int, Origin, Callable[[str], str], str, bool, list[int]]],
    opts: bool,
) -> None:
    whole = ALL[name]
    answer = Answer(can_replace=opts)
    for n, target, echo, preamble, prefill, sizes in legs:
        until = len(answer.text.said) + n
        write = goes_on(whole, until, echo, preamble)
        answer.leg(write, sizes, target=target, prefill=prefill, breaks_off=True)
        assert whole.startswith(answer.client)
    answer.leg(goes_on(whole, len(whole)), [5])
    assert answer.finish() == whole


@given(st.integers(0, len(PROSE)), SIZES, st.booleans())
def test_a_stop_string_is_found_wherever_the_legs_meet(
    cut: int, sizes: list[int], breaks_off: bool
) -> None:
    answer = Answer(stops=("the valley.\n\nRuby",))
    answer.leg(goes_on(PROSE, cut), sizes, target="local", breaks_off=breaks_off)
    answer.leg(goes_on(PROSE, len(PROSE)), sizes)
    assert answer.finish() == PROSE[: PROSE.index("the valley.\n\nRuby")]
    assert answer.text.stopped == "the valley.\n\nRuby"


def test_a_loop_is_taken_back_and_the_answer_continues() -> None:
    good = "I like foxes. They are red."
    loop = " They are red. They are red. They"
    for opts, client in ((True, good + " And small."), (False, good + loop + "\n\nAnd small.")):
        answer = Answer(can_replace=opts)
        answer.send([good, loop])
        answer.leg(goes_on(good + " And small.", 99), [4], keep_chars=30)
        assert answer.finish() == client


def test_the_answer_ends_at_its_limit_though_the_writer_had_room_for_more() -> None:
    answer = Answer()
    answer.send([PROSE[:60]])
    answer.leg(goes_on(PROSE, len(PROSE)), [6], tokens_left=3)
    assert answer.finish() == PROSE[: PROSE.index("nobody")]
