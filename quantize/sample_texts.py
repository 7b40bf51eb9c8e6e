"""Texts on which the two engines are compared."""

from __future__ import annotations

PROSE = """\
The lighthouse stood on the last rock before the open sea. Every evening, before it grew dark,
the keeper climbed 136 steps with a can of oil in one hand and a book in the other. "You read
too much," his sister used to say, but she had moved to the city in 1894, and nobody had said
it since.

On the third of March the lamp went out at a quarter past two. He woke because the room was
dark; for nineteen years the beam had crossed his ceiling every eight seconds. Outside, a ship
was sounding its horn: two long, one short. What would you have done? He ran.

def steps_per_minute(steps: int, seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("seconds must be positive")
    return 60 * steps / seconds

The report of the harbour office lists the facts in order: (1) the wick was wet, (2) the reserve
lamp was lit within four minutes, (3) no ship was lost. Water boils at 100 °C at sea level, and
oil burns at about 250 °C; a wet wick therefore hisses before it burns. Den Rest der Nacht blieb
er wach. Il ne dormit plus jamais avant l'aube. The next morning he wrote to his sister, for the
first time in a year.
"""
"""For the divergence of the logits."""

TO_TOKENIZE = (
    PROSE,
    "",
    " ",
    "Hello",
    " Hello, world!",
    "  two  spaces,\ttabs\t\tand\n\n\nlines \n  x \r\n\r\n y  ",
    "I'll, we've, DON'T, it's; they'd 'quoted' ''twice''",
    "12345 6 78 3.14159 v1.2.3-rc4 0x1F 1,000,000 ½ x² ٣٤ 三十",
    "CamelCaseWords anHTTPServer snake_case kebab-case ΑΒΓδε",
    "Größe, naïve café, Straße — Ελληνικά, русский язык, українська",
    "日本語のテキスト。中文也一样，한국어도 마찬가지입니다.",  # noqa: RUF001  # a real comma there
    "हिन्दी में एक वाक्य; ภาษาไทย; tiếng Việt; العربية من اليمين إلى اليسار; עברית",
    "🦊👩‍👩‍👧 🇩🇪 ☕️ ✓ € ™ … “quotes” «guillemets»",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] & 0xff; } // 你好\n#include <stdio.h>\n",
    'SELECT "name" FROM t WHERE id=42 AND x LIKE \'%a\\_b%\';\n\t{"a": [1, 2.5e-3, null]}',
    "https://example.org/a?b=c&d=%20#e user@example.org C:\\Users\\x ~/.config",
    "<|im_start|>user\nHi<|im_end|>\n<s>[INST] x [/INST]</s> <start_of_turn>user\n<think>",
    "." * 40 + "-" * 33 + "=" * 20 + " " * 17 + "\n" * 9 + "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)
"""For the tokenizers: scripts, code, numbers, spaces, and what looks like control tokens. Composed
characters only: some tokenizers compose them and others do not, and both are right."""

ODD = (
    "a\x00b \x01\x02\x1b[0m\x7f \x0b\x0c\x85 \r \r\r\n",
    "\ufeffmark \u200bzero\u200dwidth\u2060 \u202eturned\u202c soft\u00adhyphen",
    "\u2028line\u2029part \xa0no\xa0\xa0break \u3000wide\u2003em",
    "\ue000private \ufffd \uffff \U0010ffff \U000e0001",
    "𐍈𐌰 𒀀𒁀 𓀀 ꙮ ᚠᛇᚻ ⴰⵣⵓⵍ 𝔘𝔫𝔦 ﷺ",  # noqa: RUF001  # letters of other planes
    "🏳️‍🌈👩🏽‍🚀👨‍👩‍👧‍👦🇺🇳1️⃣☠️",
    "   three leading, three trailing   ",
    "\n\n  \n indented\n\t\tdeeper\n",
    "▁sentence▁piece Ġbyte Ċlevel <0x0A><0xFF> <unk>",
    "<|im_start|><|im_end|>x<|im_start|> y <|im_end|>\n</s></s>z<s",
)
"""For the tokenizers, too: control and format characters, rare scripts, tokens inside of a text.
Only where both are made from one file: others may clean such texts up."""
