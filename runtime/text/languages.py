"""A guess at the language of a text: by script, then by the commonest words.

A library for this takes several megabytes and is too sure about a line of chat. Here a guess takes
evidence: several function words.
"""

from __future__ import annotations

import re

from spillover.runtime.text.scripts import scripts_in

_WORDS = {
    "en": "the and is are was what how of to in you me my for with that this can do does it a an "
    "please tell write about who why where when i your give make have on not if be from",
    "de": "der die das und ist sind war was wie von zu im ich du mir mein für mit dass kann bitte "
    "erzähl schreibe über wer warum wo wann nicht ein eine einen auf den dem sie wir mich es",
    "fr": "le la les et est sont était que quoi comment de du des à en je tu moi mon pour avec qui "
    "ce cette peux sur pourquoi où quand pas un une dans vous nous il elle au aux quelle quel",
    "es": "el la los las y es son era qué cómo de del en yo tú mi para con que puedes por favor "
    "sobre quién dónde cuándo no un una al se cuál una lo cuento me escribe",
    "it": "il lo la gli le e è sono era che cosa come di del della in io tu mi per con puoi favore "
    "su chi perché dove quando non un una al si qual quale scrivi dei nel racconta",
    "pt": "o a os as e é são era que como de do da em eu você me para com pode por favor sobre "
    "quem onde quando não um uma ao se qual escreva dos na no meu uma conte história",
    "nl": "de het een en is zijn was wat hoe van te in ik jij je mij mijn voor met dat dit kan "
    "over wie waarom waar wanneer niet op aan er deze schrijf vertel alsjeblieft zou hebben",
    "sv": "och är var vad hur av till i jag du mig min för med att det den kan om vem varför när "
    "inte en ett på som skriv berätta snälla från har vi",
    "da": "og er var hvad hvordan af til i jeg du mig min for med at det den kan om hvem hvorfor "
    "hvornår ikke en et på som skriv fortæl fra har vi",
    "no": "og er var hva hvordan av til i jeg du meg min for med at det den kan om hvem hvorfor "
    "når ikke en et på som skriv fortell fra har vi",
    "pl": "i jest są był co jak z do w ja ty mi mój dla że to może o kto dlaczego gdzie kiedy nie "
    "na się proszę napisz opowiedz czy jaki jaka",
    "cs": "a je jsou byl co jak z do v já ty mi můj pro že to může o kdo proč kde kdy ne na se "
    "prosím napiš řekni jaký jaká který",
    "tr": "ve bir bu ne nasıl için ile mi mı ben sen bana benim var yok kim neden "  # noqa: RUF001
    "nerede zaman değil lütfen yaz anlat hakkında daha çok olan",  # noqa: RUF001
    "fi": "ja on ovat oli mitä miten minä sinä minun että tämä se voi kuka miksi missä milloin ei "
    "kerro kirjoita kiitos mikä ole",
    "ro": "și este sunt era ce cum de la în eu tu mie meu pentru cu că poate despre cine unde când "
    "nu un o te rog scrie care din pe povestește",
    "hu": "és van egy a az mi hogyan én te nekem hogy ez ki miért hol mikor nem kérlek írj mesélj "
    "egy meg is volt",
    "id": "yang dan di ke dari apa bagaimana saya kamu untuk dengan ini itu bisa tentang siapa "
    "mengapa kapan tidak tolong tulis ceritakan adalah sebuah",
    "vi": "là và của cho với tôi bạn gì như thế nào này có không một những được hãy viết kể về ai "
    "tại sao khi ở đâu",
}
_BY_LANGUAGE = {code: frozenset(text.split()) for code, text in _WORDS.items()}
FUNCTION_WORDS = frozenset().union(*_BY_LANGUAGE.values())
"""The commonest words of all these languages."""
_BY_SCRIPT = {
    "greek": ("el",),
    "cyrillic": ("ru", "uk", "bg", "sr", "mk", "be", "kk", "mn"),
    "armenian": ("hy",),
    "hebrew": ("he", "yi"),
    "arabic": ("ar", "fa", "ur", "ps"),
    "devanagari": ("hi", "mr", "ne", "sa"),
    "bengali": ("bn", "as"),
    "gurmukhi": ("pa",),
    "gujarati": ("gu",),
    "tamil": ("ta",),
    "telugu": ("te",),
    "kannada": ("kn",),
    "malayalam": ("ml",),
    "thai": ("th",),
    "georgian": ("ka",),
    "hangul": ("ko",),
    "kana": ("ja",),
    "han": ("zh", "ja"),
    "ethiopic": ("am", "ti"),
}
_LEAST_WORDS = 3
_LEAST_LETTERS = 8
_MAX_CHARS = 4_000
_SAMPLE_CHARS = 2_000
_LATIN_SHARE = 0.6
_LETTERS = re.compile(r"[^\W\d_]+")


def candidates(
    text: str, *, script_share: float = 0.6, word_share: float = 0.25
) -> tuple[str, ...]:
    """Languages (ISO 639-1) that *text* may be in, the likeliest first; () if that is unclear.

    For a script other than Latin that has *script_share* of the letters: its languages. For Latin
    script: one language, if at least three different function words make up *word_share* of the
    words and no other language has as many.
    """
    text = text[:_MAX_CHARS]
    scripts = scripts_in(text)
    n_letters = scripts.total()
    if n_letters < _LEAST_LETTERS:
        return ()
    if scripts["kana"] >= 2 and scripts["kana"] + scripts["han"] >= script_share * n_letters:
        return _BY_SCRIPT["kana"]
    for script, n in scripts.most_common():
        if script != "latin" and n >= script_share * n_letters:
            return _BY_SCRIPT.get(script, ())
    if scripts["latin"] < _LATIN_SHARE * n_letters:
        return ()
    return _latin(_LETTERS.findall(text.lower()), word_share)


def _latin(words: list[str], word_share: float) -> tuple[str, ...]:
    counts = sorted(
        ((sum(w in known for w in words), code) for code, known in _BY_LANGUAGE.items()),
        reverse=True,
    )
    (most, code), (second, _) = counts[:2]
    # A word that is repeated, as in "la la la", is no more evidence than once.
    n_different = len(_BY_LANGUAGE[code].intersection(words))
    is_clear = n_different >= _LEAST_WORDS and most >= word_share * len(words) and most > second
    return (code,) if is_clear else ()


def language_of(text: str) -> str:
    """The language (ISO 639-1) of the end of *text*; "en" without evidence for another one.

    For a use where a wrong guess costs little. Texts in any script hold Latin letters, so a fifth
    of other letters is enough.
    """
    return next(iter(candidates(text[-_SAMPLE_CHARS:], script_share=0.2, word_share=0.1)), "en")


def is_covered(text: str, known: tuple[str, ...]) -> bool:
    """Whether *text* may be in one of the *known* languages; () stands for all languages."""
    if not known:
        return True
    found = candidates(text)
    return not found or bool(set(found) & set(known))
