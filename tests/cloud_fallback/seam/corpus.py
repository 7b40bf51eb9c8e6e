# ruff: noqa: RUF001, E501 - the texts are what they are
"""Texts that are hard to cut, and ways in which another writer may take them up."""

from __future__ import annotations

import re

from hypothesis import strategies as st

from spillover.cloud_fallback.events import Replace
from spillover.cloud_fallback.seam.continuation import Continuation, plan_continuation
from spillover.cloud_fallback.seam.machine import SeamMachine
from spillover.runtime.request import GenerationRequest, Message

PROSE = (
    "The quick brown fox jumps over the lazy dog. It wasn't a sunny day – nobody “knew” what would "
    "happen next… Then, at 3.15 p.m., the rain came down on the valley.\n\nRuby didn't mind: she "
    "had her coat (the red one), and Mr. Badger's umbrella."
)
EMOJI = (
    "Family 👨‍👩‍👧‍👦 and flags 🇩🇪🇫🇷🇯🇵 with thumbs 👍🏽👍🏿, hearts ❤️❤️‍🔥, keycaps 1️⃣2️⃣, a rainbow 🏳️‍🌈 and tags "
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿; then the family 👨‍👩‍👧‍👦 goes home."
)
MARKS = (
    "Cafe\u0301 and café, nai\u0308ve, Z\u0351\u036b\u0343algo, A\u030angstrom, हिन्दी में नमस्ते दुनिया, "
    "ที่นี่มีน้ำใจ, தமிழ் மொழி, 한국어 \u1112\u1161\u11ab\u1100\u1173\u11af end of the marks."
)
TABLE = (
    "Here it is:\r\n\r\n| Name | Age |\r\n|------|-----|\r\n| Ann | 31 |\r\n| Bob | 31 |\n"
    "| Cid | 31 |\n| Dee | 31 |\n| Eve | 31 |\r\n\r\nThat is the table; all are 31 years old.\n"
)
CODE = (
    'Use this:\n\n```python\ndef area(r: float) -> float:\n    """The area."""\n    if r < 0:\n'
    '        raise ValueError(f"r={r!r}")\n\n    return 3.14159 * r ** 2\n\n\nclass A:\n    x = {\n'
    "        'a': {'b': {'c': {}}},\n    }\n```\n\nThen call `area(2)`. In C:\n\n```c\n"
    "int main(void) { for (;;) { if (x) { y(); } } }\n```\nDone.\n"
)
BRACES = (
    "{\n  {\n    {\n      {\n        x\n      }\n    }\n  }\n}\n}}}}}}}}}}\n}\n}\n}\n}}}}}} end"
)
LINKS = (
    'See [the docs](https://example.org/a_(b)?q=1&r=[2]#frag) and ![img](x.png "A “title”"), '
    "<https://example.org/ü>, `code`, **bold _nested_ text**, ~~gone~~[^1].\n\n[^1]: A note.\n\n"
    "1. One\n2. Two\n   - nested\n   - more\n3. Three\n\n- [ ] todo\n- [x] done\n\n> quoted\n> twice\n"
)
CHINESE = (
    "敏捷的棕色狐狸跳过了懒狗。今天天气很好，我们去公园散步吧！“你好”，他说，“世界。”"
    "狐狸问：为什么不呢？于是大家都笑了，夜里下起了雨。"
)
JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
    "何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。"
)
RIGHT_TO_LEFT = (
    "قفز الثعلب البني السريع فوق الكلب الكسول. هل كان يومًا مشمسًا؟ لا، \u200fبل أمطرت (كثيرًا)! "
    'שלום עולם, זה טקסט "מימין לשמאל" עם מספרים 12,345 ועם English באמצע.'
)
REPEATED = (
    "She sang: la la la la, la la la la,\nla la la la, la la la la,\nla la la la, la la la — end"
)
CHORUS = (
    "Row, row, row your boat,\nGently down the stream.\nMerrily, merrily, merrily, merrily,\n"
    "Life is but a dream.\n\nRow, row, row your boat,\nGently down the brook.\nIf you see a "
    "crocodile,\nDon't forget to look.\n"
)
MEAGRE = '»Ja«, «oui», "yes": <<< ... >>> [[[x]]] ⟦y⟧ — – - ‐ \' ’ ‘ “ ” … . ? ! end'

ALL = {
    name.lower(): text
    for name, text in list(globals().items())
    if name.isupper() and isinstance(text, str)
}

DOCUMENT = (
    r'{"name": "Al \"the\" \\ fox", "smile": "a \uD83D\uDE00 and \u00e9\n", "price": -12.50e+3, '
    r'"tags": ["x", "y", [], {}, true, false, null], "nested": {"name": "Al", "deep": [1, 2, 3]}}'
)

PREAMBLES = (
    "",
    "Sure! ",
    "Sure, here is the rest:\n\n",
    "Apologies for the interruption. Continuing from where I left off:\n\n",
    "As requested, this is what follows — ",
    "The answer continues here:\n\n",
    "Natürlich! Hier ist die Fortsetzung:\n\n",
    "Bien sûr, voici la suite :\n\n",
    "¡Claro! Aquí tienes el resto:\n",
    "Конечно! Вот продолжение:\n\n",
    "好的，继续：\n\n",
    "はい、続きです：\n",
    "بالتأكيد، إليك التكملة:\n\n",
    "...",
    "… ",
)

_SMART = str.maketrans({'"': "”", "'": "’", "-": "–", "“": '"', "”": '"', "–": "-", "’": "'"})
_GAP = re.compile(r"\s+")


def with_one_space(text: str) -> str:
    return _GAP.sub(" ", text)


def with_line_breaks(text: str) -> str:
    return _GAP.sub("\n", text)


def with_other_quotes(text: str) -> str:
    return text.translate(_SMART)


def with_a_capital(text: str) -> str:
    return text[:1].upper() + text[1:]


ECHOES = (str, with_one_space, with_line_breaks, with_other_quotes, with_a_capital)
"""How a model repeats text."""


def pieces_of(text: str, sizes: list[int]) -> list[str]:
    """*text* in pieces of *sizes*, over and over."""
    pieces, at = [], 0
    while at < len(text):
        for size in sizes or [len(text)]:
            pieces.append(text[at : at + size])
            at += size
    return [piece for piece in pieces if piece]


class Client:
    """Has what it was sent, and checks that nothing is taken back unless it may be."""

    def __init__(self, plan: Continuation, said: str) -> None:
        self.plan = plan
        self.text = said[: plan.keep_chars] if plan.takes_back else said
        self.seam = SeamMachine(plan)
        self.n_replaced = 0

    def take(self, pieces: list[str | Replace]) -> None:
        for piece in pieces:
            if isinstance(piece, Replace):
                assert self.plan.can_replace
                assert piece.keep_chars <= len(self.text)
                self.text = self.text[: piece.keep_chars]
                self.n_replaced += 1
            else:
                self.text += piece

    def read(self, cloud: str, sizes: list[int]) -> str:
        for piece in pieces_of(cloud, sizes):
            self.take(self.seam.feed(piece, 0.0))
        self.take(self.seam.end())
        assert self.seam.settled is not None
        return self.text


ASKED = GenerationRequest(messages=(Message(role="user", content="Tell me about the fox."),))
SIZES = st.lists(st.integers(1, 30), max_size=6)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[str, int]:
    """A text of the corpus and a place in it."""
    answer = ALL[draw(st.sampled_from(sorted(ALL)))]
    return answer, draw(st.integers(0, len(answer)))


def planned(answer: str, cut: int, *, can_replace: bool = False) -> Continuation:
    return plan_continuation(ASKED, answer[:cut], can_replace=can_replace)
