"""A text in many scripts, in which rules that split text into words differ from each other."""

# ruff: noqa: RUF001  # the letters that look alike are what this is about

from __future__ import annotations

MANY_SCRIPTS = """\
Once upon a time, there's a dog; it'll bark. DON'T! We'Re I'M they'VE  two  spaces,\ttabs\t\tand


lines\x20
  x \r\n\r\n y 12345 6 78 3.14159 v1.2.3-rc4 0x1F 1234567890 ...!?!?//* #include <x.h> a+b=c $5 ~^|`
Größe, naïve café, cafe\u0301 a\u0308, Straße's İstanbul ʼn ǅ ſ'ſ ﬁ;
Ελληνικά ΑΒΓδε Ωμέγα's, русский ЯЗЫК'S Привет
日本語のテキスト、カタカナ。東京2024年 한국어 텍스트 中文，标点！
ＦＵＬＬ　ｗｉｄｔｈ １２３ ⅣⅫ ①② 𝔘𝔫𝔦 𝟙𝟚
हिन्दी में पाठ १२३ ไทย ภาษา עברית שָׁלוֹם العربية مُحَمَّد ٣٤ ۱۲۳ ᾈ ꙮ Ⴀ ა Ა x² ½
🦊👩\u200d👩\u200d👧 CamelCaseWords anHTTPServer iPhone's «guillemets» “quotes” ’t l’été 3’s
\u00a0nbsp\u3000wide\u2028line\u2003em \u200bzero
<tag attr="v">{"k": [1, 2, null]}</tag>

\tdef f(x):
\t\treturn x**2  # ok
¿Qué? ¡Sí!"""

_SIZES = (6, 11)
PIECES = [
    MANY_SCRIPTS[start : start + size]
    for size in _SIZES
    for start in range(0, len(MANY_SCRIPTS), size)
]
"""It, cut at any place: what a vocabulary is trained with whose tokens lie across all words."""
