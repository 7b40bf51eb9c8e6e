"""Asks the next writer to continue. The anchor is the last words of the answer; the notice is a
plain sentence in the user's voice and language that asks to repeat them.

Cautious models take a text that looks like a system message for an attack.
"""

# ruff: noqa: RUF001 - other alphabets have look-alikes of Latin letters

from __future__ import annotations

from collections.abc import Iterator

from spillover.runtime.text.folding import fold
from spillover.runtime.text.graphemes import boundary_before

MIN_USEFUL_CHARS = 8
"""An answer with fewer visible characters is started over."""

SHORTEST_CHARS = 40
LONGEST_WORD_CHARS = 20
"""The anchor begins at the start of a word, unless that is further back than this."""

LONGEST_CHARS = 240
MIN_LETTERS = 8

QUOTES = (("«", "»"), ("“", "”"), ("⟦", "⟧"), ("<<<", ">>>"), ("[[[", "]]]"))

_CONTINUE = {
    "en": "My connection dropped while you were writing that reply, so I only received it up to "
    "this point: {anchor} Please pick up exactly where you left off: start by repeating that "
    "fragment word for word, then continue the interrupted word, sentence, list or code block. "
    "Do not start over, summarise, or comment on this message.",
    "de": "Meine Verbindung ist abgebrochen, während du diese Antwort geschrieben hast; ich habe "
    "sie nur bis hierher bekommen: {anchor} Bitte mach genau dort weiter: Wiederhole zuerst dieses "
    "Stück Wort für Wort und führe dann das angefangene Wort, den Satz, die Liste oder den "
    "Codeblock fort. Fang nicht von vorn an, fasse nichts zusammen und geh nicht auf diese "
    "Nachricht ein.",
    "fr": "Ma connexion a été coupée pendant que vous écriviez cette réponse ; je ne l'ai reçue "
    "que jusqu'ici : {anchor} Reprenez exactement là où vous en étiez : répétez d'abord ce "
    "fragment mot pour mot, puis continuez le mot, la phrase, la liste ou le bloc de code "
    "interrompu. Ne recommencez pas depuis le début, ne résumez pas et ne commentez pas ce "
    "message.",
    "es": "Se cortó mi conexión mientras escribías esa respuesta y solo la recibí hasta aquí: "
    "{anchor} Sigue exactamente donde lo dejaste: repite primero ese fragmento palabra por palabra "
    "y luego continúa la palabra, la frase, la lista o el bloque de código interrumpido. No "
    "empieces de nuevo, no resumas ni comentes este mensaje.",
    "it": "La mia connessione è caduta mentre scrivevi quella risposta, quindi l'ho ricevuta solo "
    "fino a qui: {anchor} Riprendi esattamente da dove eri rimasto: ripeti prima quel frammento "
    "parola per parola, poi continua la parola, la frase, l'elenco o il blocco di codice "
    "interrotto. Non ricominciare da capo, non riassumere e non commentare questo messaggio.",
    "pt": "A minha conexão caiu enquanto você escrevia essa resposta, por isso só a recebi até "
    "aqui: {anchor} Continue exatamente de onde parou: repita primeiro esse trecho palavra por "
    "palavra e depois continue a palavra, a frase, a lista ou o bloco de código interrompido. Não "
    "comece de novo, não resuma e não comente esta mensagem.",
    "nl": "Mijn verbinding viel weg terwijl je dat antwoord schreef; ik heb het maar tot hier "
    "ontvangen: {anchor} Ga precies verder waar je gebleven was: herhaal eerst dat fragment woord "
    "voor woord en maak dan het afgebroken woord, de zin, de lijst of het codeblok af. Begin niet "
    "opnieuw, vat niets samen en ga niet in op dit bericht.",
    "pl": "Połączenie zerwało się, gdy pisałeś tę odpowiedź, więc dotarła do mnie tylko do tego "
    "miejsca: {anchor} Proszę, zacznij dokładnie tam, gdzie przerwałeś: najpierw powtórz ten "
    "fragment słowo w słowo, a potem dokończ przerwane słowo, zdanie, listę lub blok kodu. Nie "
    "zaczynaj od początku, nie streszczaj i nie komentuj tej wiadomości.",
    "tr": "Sen bu yanıtı yazarken bağlantım koptu, bu yüzden yalnızca şuraya kadarını aldım: "
    "{anchor} Lütfen tam kaldığın yerden devam et: önce bu parçayı kelimesi kelimesine tekrarla, "
    "sonra yarım kalan kelimeyi, cümleyi, listeyi ya da kod bloğunu sürdür. Baştan başlama, "
    "özetleme ve bu mesaj hakkında yorum yapma.",
    "ru": "Пока ты писал этот ответ, связь прервалась, и я получил его только до этого места: "
    "{anchor} Пожалуйста, продолжи точно с места обрыва: сначала повтори этот фрагмент слово в "
    "слово, затем продолжи прерванное слово, предложение, список или блок кода. Не начинай "
    "заново, не подводи итог и не комментируй это сообщение.",
    "zh": "你写那条回复的时候我的网络断了，我只收到了这里为止的内容：{anchor}请从中断的地方接着写："
    "先一字不差地重复这一小段，再把被打断的词、句子、列表或代码块写下去。不要重新开始，不要总结，"
    "也不要评论这条消息。",
    "ja": "その返信を書いてもらっている途中で接続が切れ、次の箇所までしか届きませんでした：{anchor}"
    "ちょうどその続きから書いてください。まずこの部分を一字一句そのまま繰り返し、それから途切れた"
    "単語、文、リスト、コードブロックを続けてください。最初からやり直したり、要約したり、この"
    "メッセージに触れたりしないでください。",
    "ko": "그 답변을 쓰시는 동안 연결이 끊겨서 여기까지만 받았습니다: {anchor} 멈춘 바로 그 "
    "자리에서 이어 주세요. 먼저 이 부분을 글자 그대로 반복한 다음, 끊긴 단어나 문장, 목록, "
    "코드 블록을 계속 써 주세요. 처음부터 다시 시작하거나 요약하거나 이 메시지에 대해 "
    "언급하지 마세요.",
    "ar": "انقطع اتصالي بينما كنت تكتب ذلك الرد، فلم يصلني إلا حتى هذا الموضع: {anchor} أكمل من "
    "حيث توقفت تمامًا: كرر أولًا هذا المقطع حرفيًا، ثم تابع الكلمة أو الجملة أو القائمة أو "
    "كتلة الشيفرة المقطوعة. لا تبدأ من جديد ولا تلخص ولا تعلق على هذه الرسالة.",
    "hi": "जब आप वह जवाब लिख रहे थे तब मेरा कनेक्शन टूट गया, इसलिए मुझे वह केवल यहाँ तक मिला: {anchor} "
    "कृपया ठीक वहीं से आगे लिखें: पहले इस अंश को शब्दशः दोहराएँ, फिर अधूरे शब्द, वाक्य, सूची या कोड "
    "ब्लॉक को जारी रखें। दोबारा शुरू न करें, सारांश न दें और इस संदेश पर टिप्पणी न करें।",
}

_REWRITE = {
    "en": "Please send the whole reply once more: repeat what you had written, character for "
    "character, then go on to its end. Write nothing but the reply itself.",
    "de": "Bitte schick die ganze Antwort noch einmal: Wiederhole Zeichen für Zeichen, was du "
    "schon geschrieben hattest, und schreib sie dann zu Ende. "
    "Schreib nichts als die Antwort selbst.",
    "fr": "Renvoyez toute la réponse : répétez caractère par caractère ce que vous aviez écrit, "
    "puis allez jusqu'au bout. N'écrivez rien d'autre que la réponse.",
    "es": "Envía la respuesta completa otra vez: repite carácter por carácter lo que habías "
    "escrito y luego termínala. No escribas nada más que la respuesta.",
}
"""The text after the anchor when the whole reply is wanted; the rest is as in _CONTINUE."""

_COMPLETE = (
    "Please continue the following text. Start by repeating its last words, {anchor}, word for "
    "word, then go on from there in the same style. Write nothing but the text itself.\n\n{text}"
)


def is_worth_keeping(text: str) -> bool:
    """Whether *text*, which does not end in blanks, can be recognised when repeated."""
    return len(fold(text[-LONGEST_CHARS:])) >= MIN_USEFUL_CHARS


def anchor_of(text: str) -> str:
    """The end of *text*, of 40 to 60 characters; longer, up to 240, if a shorter one also occurs
    elsewhere, has almost no letters, or would begin inside a number."""
    text = text.rstrip()
    units = fold(text)
    anchor = ""
    for start in _starts(text):
        anchor = text[start:]
        if _is_distinctive(anchor, units) and not _splits_a_number(text, start):
            break
    return anchor


def _starts(text: str) -> Iterator[int]:
    n = SHORTEST_CHARS
    while n < len(text) and n < LONGEST_CHARS:
        yield (start := _word_start(text, len(text) - n))
        n = max(n + 1, len(text) - start) + 12
    yield _word_start(text, max(0, len(text) - LONGEST_CHARS))


def _word_start(text: str, index: int) -> int:
    """A position at or before *index* where a word begins, or else any non-blank character."""
    while index and text[index].isspace():
        index -= 1
    for start in range(index, max(0, index - LONGEST_WORD_CHARS), -1):
        if text[start - 1].isspace() and not text[start].isspace():
            return start
    if index <= LONGEST_WORD_CHARS:
        index = 0
    start = boundary_before(text, index)
    while text[start].isspace():
        start += 1
    return start


def _is_distinctive(anchor: str, units: str) -> bool:
    letters = sum(character.isalnum() for character in anchor)
    found = fold(anchor)
    return letters >= MIN_LETTERS and units.find(found) == len(units) - len(found)


def _splits_a_number(text: str, start: int) -> bool:
    """Redaction must see a complete card or phone number."""
    words = text[max(0, start - 2 * LONGEST_WORD_CHARS) : start].split()
    if not words or not any(map(str.isdigit, words[-1])):
        return False
    return any(map(str.isdigit, text[start : start + 2 * LONGEST_WORD_CHARS].split()[0]))


def quoted(anchor: str) -> str:
    """*anchor* between quotes that do not occur in it."""
    for opening, closing in QUOTES:
        if opening not in anchor and closing not in anchor:
            return f"{opening}{anchor}{closing}"
    return f"\n<fragment>\n{anchor}\n</fragment>\n"


def continue_notice(anchor: str, language: str) -> str:
    """Asks for *anchor* and what comes after it."""
    return _CONTINUE.get(language, _CONTINUE["en"]).format(anchor=quoted(anchor))


def rewrite_notice(anchor: str, language: str) -> str:
    """Asks for the whole reply from its beginning to its end, *anchor* included."""
    language = language if language in _REWRITE else "en"
    received = _CONTINUE[language].partition("{anchor}")[0]
    return f"{received}{quoted(anchor)} {_REWRITE[language]}"


def complete_notice(anchor: str, text: str) -> str:
    """Asks for the continuation of a *text* without a conversation."""
    return _COMPLETE.format(anchor=quoted(anchor), text=text)
