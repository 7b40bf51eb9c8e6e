# ruff: noqa: RUF001, E501 - the texts are what they are
"""What a writer may do with a request to continue: the ways seen with real providers."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import TypeAlias

from spillover.cloud_fallback.seam.continuation import Continuation
from tests.cloud_fallback.seam.corpus import with_line_breaks, with_one_space, with_other_quotes

Writer: TypeAlias = Callable[[Continuation, str, random.Random], str]
"""(what was asked, the whole answer, chance) -> what is written."""

TALK = {
    "en": "Sure! Here is the rest of my answer:\n\n",
    "en, long": "No problem, connections drop all the time. I'll pick up right where I left off:\n\n",
    "de": "Natürlich, ich mache genau dort weiter, wo ich unterbrochen wurde:\n\n",
    "fr": "Bien sûr, je reprends exactement là où je m'étais arrêté :\n\n",
    "es": "¡Por supuesto! Continúo justo donde lo dejé:\n\n",
    "it": "Certo, riprendo esattamente da dove ero rimasto:\n\n",
    "ru": "Конечно, продолжаю с того места, где остановился:\n\n",
    "zh": "好的，我从中断的地方继续：\n\n",
    "ja": "承知しました。途切れたところから続けます：\n\n",
    "ar": "بالتأكيد، أكمل من حيث توقفت:\n\n",
    "hi": "ज़रूर, मैं वहीं से जारी रखता हूँ जहाँ रुका था:\n\n",
    "ko": "네, 중단된 부분부터 이어서 쓰겠습니다:\n\n",
}
APOLOGIES = (
    "I apologize for the interruption! Continuing from where I left off:\n\n",
    "Sorry about that — here is the continuation:\n\n",
    "Es tut mir leid, dass die Verbindung abgebrochen ist. Hier geht es weiter:\n\n",
)
REFUSAL = "I'm sorry, but I can't continue this text. It isn't something that I can help with."
ANOTHER = (
    "A completely different reply begins here, with words of its own from the first to the last. It "
    "goes on for a while, so that nothing of it could be taken for a repetition of what was said."
)


def _rest(plan: Continuation, answer: str) -> str:
    return answer[len(plan.shown) :]


def _echoed(change: Callable[[str], str]) -> Writer:
    return lambda plan, answer, chance: change(plan.anchor) + _rest(plan, answer)


def _after(talk: str) -> Writer:
    return lambda plan, answer, chance: talk + plan.anchor + _rest(plan, answer)


def _only_after(talk: str) -> Writer:
    return lambda plan, answer, chance: talk + _rest(plan, answer).lstrip()


def _other_bullets(text: str) -> str:
    text = re.sub(r"(?m)^(\s*)[-*] ", lambda m: m[1] + "• ", text)
    return re.sub(r"(?m)^(\s*\d+)\. ", r"\1) ", text)


def _without_markdown(text: str) -> str:
    return re.sub(r"[*_`~]{1,2}", "", text)


def misspelt(text: str, chance: random.Random) -> str:
    """*text* with one letter of a word wrong, missing, doubled or swapped with the next."""
    places = [found.start() for found in re.finditer(r"(?<=\w)[^\W\d_]|[^\W\d_](?=\w)", text)]
    if not places:
        return text
    i = chance.choice(places)
    match chance.randrange(4):
        case 0:
            return text[:i] + ("q" if text[i] not in "qQ" else "z") + text[i + 1 :]
        case 1:
            return text[:i] + text[i + 1 :]
        case 2:
            return text[:i] + text[i] + text[i:]
        case _:
            return text[:i] + text[i : i + 2][::-1] + text[i + 2 :]


def _misspelt(plan: Continuation, answer: str, chance: random.Random) -> str:
    return misspelt(plan.anchor, chance) + _rest(plan, answer)


def _misspelt_restart(plan: Continuation, answer: str, chance: random.Random) -> str:
    return misspelt(plan.shown, chance) + _rest(plan, answer)


def _from_further_back(plan: Continuation, answer: str, chance: random.Random) -> str:
    n = len(plan.shown) - len(plan.anchor)
    places = [0, *(m.end() for m in re.finditer(r"\s", plan.shown[:n]))]
    return answer[chance.choice(places) :]


def _last_words(plan: Continuation, answer: str, chance: random.Random) -> str:
    starts = [m.end() for m in re.finditer(r"\s+", plan.anchor)]
    starts = [start for start in starts if len(plan.anchor) - start >= 16]
    start = chance.choice(starts) if starts else 0
    return plan.anchor[start:] + _rest(plan, answer)


ECHOING: dict[str, Writer] = {
    "anchor": _echoed(str),
    "one blank each": _echoed(with_one_space),
    "line breaks": _echoed(with_line_breaks),
    "other quotes": _echoed(with_other_quotes),
    "small letters": _echoed(str.lower),
    "capitals": _echoed(str.upper),
    "other bullets": _echoed(_other_bullets),
    "without Markdown": _echoed(_without_markdown),
    "in bold": _echoed("**{}**".format),
    "in quotes": _echoed("“{}”".format),
    "in guillemets": _echoed("«{}»".format),
    "after dots": _echoed("…{}".format),
    "from further back": _from_further_back,
    "from the start": lambda plan, answer, chance: answer,
    **{f"talk in {language}": _after(talk) for language, talk in TALK.items()},
    **{f"apology {n}": _after(talk) for n, talk in enumerate(APOLOGIES)},
    "talk, from the start": lambda plan, answer, chance: TALK["en"] + answer,
}
"""They repeat what was asked for, so the answer must come out exactly."""

MISSPELLING: dict[str, Writer] = {
    "misspelt": _misspelt,
    "misspelt after talk": lambda p, a, chance: TALK["en"] + _misspelt(p, a, chance),
    "misspelt, from the start": _misspelt_restart,
}
"""One letter of the repetition is wrong."""

SILENT: dict[str, Writer] = {
    "the rest": lambda plan, answer, chance: _rest(plan, answer),
    "the rest, without blanks": lambda plan, answer, chance: _rest(plan, answer).lstrip(),
    **{f"the rest after talk in {lang}": _only_after(talk) for lang, talk in TALK.items()},
    **{f"the rest after apology {n}": _only_after(talk) for n, talk in enumerate(APOLOGIES)},
    "the last words": _last_words,
}
"""They do not repeat what was asked for: white space at the join may differ."""

STRANGE: dict[str, Writer] = {
    "refusal": lambda plan, answer, chance: REFUSAL,
    "another answer": lambda plan, answer, chance: ANOTHER,
    "a sentence like talk": lambda plan, answer, chance: (
        "Okay! The rest of the day was sunny.\n" + ANOTHER
    ),
    "speech like talk": lambda plan, answer, chance: (
        "\"I'm sorry, I can't continue,\" he sighed.\n" + ANOTHER
    ),
}
"""What they write is not the rest; all of it must be shown."""
