"""Recognises a preamble, which a model may write before it continues: "Sure! Here is the rest:"."""

# ruff: noqa: RUF001 - other alphabets have look-alikes of Latin letters

from __future__ import annotations

import re

_OPENINGS = (
    r"sure|certainly|of course|absolutely|okay|ok|right|alright|understood|got it|no problem|"
    r"no worries|apologies|i apologi[sz]e|sorry|i'm sorry|my apologies|thanks|thank you|"
    r"continuing|continued|continuation|picking up|resuming|let me (?:continue|pick|resume|finish)|"
    r"as (?:requested|promised|you)|going on|where (?:was|were) (?:i|we)|happy to|glad to|great|"
    r"let's (?:continue|resume|pick)|perfect|yes\b|"
    r"i(?:'ll| will) (?:continue|pick|resume|finish|go on)|here(?:'s| is| are)|as i was saying",
    r"klar|natürlich|selbstverständlich|gern(?:e)?\b|hier (?:ist|geht|kommt)|fortsetzung|weiter|"
    r"ich (?:mache|setze|fahre|schreibe)|entschuldig|tut mir leid|alles klar|verstanden",
    r"bien sûr|d'accord|voici|je (?:continue|reprends|poursuis)|reprenons|suite|désolé|"
    r"très bien|entendu|pas de (?:souci|problème)|excuse",
    r"claro|por supuesto|aquí (?:está|tienes|va)|continuando|continúo|continuación|sigo|"
    r"lo siento|perdón|disculpa|de acuerdo|entendido|vale",
    r"certo|certamente|ecco|continuo|continuando|riprendo|mi dispiace|scusa|va bene|d'accordo",
    r"com certeza|aqui está|continuação|desculp|sem problema|entendi",
    r"natuurlijk|zeker|hier is|ik ga (?:verder|door)|vervolg|sorry|prima|begrepen",
    r"jasne|oczywiście|oto|kontynuuj|przepraszam|dobrze|rozumiem",
    r"tabii|elbette|işte|devam|kaldığım|özür|tamam|anladım",
    r"конечно|хорошо|вот|продолжаю|продолжение|продолжим|извини|понял|ладно",
    r"好的|当然|當然|继续|繼續|以下是|接下来|接下來|抱歉|没问题|沒問題|明白|收到|接着|接著",
    r"はい|もちろん|承知|了解|続き|それでは|申し訳|失礼|分かりました|わかりました",
    r"네|예,|물론|알겠습니다|계속|이어서|죄송|좋습니다",
    r"بالتأكيد|بالطبع|حسن|إليك|إليكم|أكمل|سأكمل|تابع|عذر|آسف|نعم",
    r"ज़रूर|बिल्कुल|ठीक है|यह रहा|यहाँ|जारी|क्षमा|माफ़",
    r"självklart|visst|såklart|här (?:är|kommer)|fortsätt|jag fortsätter|ursäkta|selvfølgelig|"
    r"naturligvis|her (?:er|kommer)|fortsett|jeg fortsetter|beklager|tietenkin|tässä|jatkan|"
    r"jatko|samozřejmě|jistě|tady je|pokračuj|omlouvám|természetesen|íme|folytat|desigur|iată|"
    r"βεβαίως|φυσικά|ορίστε|συνεχίζ|звісно|ось|продовжу|вибач|tất nhiên|chắc chắn|đây là|"
    r"tiếp tục|xin lỗi|tentu|baik|berikut|melanjutkan|lanjutan|maaf|แน่นอน|ได้เลย|ต่อ|นี่คือ|"
    r"ขออภัย|בטח|כמובן|הנה|ממשיך|סליחה",
)
_OPENING = re.compile(rf"[\s*_>#¡¿\"'«“(\[-]*(?:{'|'.join(_OPENINGS)})", re.IGNORECASE)

_META = re.compile(
    r"\b(?:continu|left off|cut off|interrupt|the rest|remainder|picking up|pick up|resum|"
    r"dropped|connection)|"
    r"fortsetz|unterbroch|abgebroch|\bder rest|weitermach|aufgehört|"
    r"\bla suite|interromp|reprend|reprise|arrêté|"
    r"continú|continua|interrumpi|\bel resto|quedé|dejé|"
    r"seguito|interrott|ripren|parei|restante|"
    r"verder|vervolg|onderbroken|gebleven|"
    r"dalszy ciąg|ciąg dalszy|kontynu|przerwa|devam|kaldığı|yarım|"
    r"продолж|остал|прерв|继续|繼續|其余|剩余|中断|余下|接着|続き|途切れ|残り|"
    r"계속|이어|나머지|끊긴|أكمل|تكملة|بقية|توقف|जारी|बाकी|शेष|"
    r"fortsätt|fortsett|fortsæt|resten|avbrö|avbru|jatk|keskey|loput|pokrač|zbyt|přeruš|folytat|"
    r"maradék|συν[εέ]χ|υπόλοιπ|διακο|продовж|решт|перерв|tiếp tục|phần còn lại|gián đoạn|"
    r"lanjut|sisa|terputus|ต่อ|ส่วนที่เหลือ|המשך|שאר|נקטע",
    re.IGNORECASE,
)
MAX_PREAMBLE_CHARS = 200
SHORT_CHARS = 60
TERMINATORS = frozenset("\n:.!?…。—\uff01\uff1a\uff1f")
_LAST = TERMINATORS | frozenset(",\"'«“\u2018„`*>[(<-\u2013\uff0c、،")


def opens_preamble(text: str) -> bool:
    """Whether *text* begins with a word that opens a preamble, not an answer."""
    return _OPENING.match(text) is not None


def is_preamble(text: str) -> bool:
    """Whether *text* is about the answer that follows it. Two of three must hold: it is short and
    set apart, it mentions the interruption, it opens as preambles do."""
    if len(text) > MAX_PREAMBLE_CHARS:
        return False
    is_short = len(text) <= SHORT_CHARS and text.rstrip()[-1:] in _LAST
    return is_short + (_META.search(text) is not None) + opens_preamble(text) >= 2


def preamble_length(text: str) -> int:
    """Length of a first line of *text* that can only be about the interruption; else 0."""
    line, newline, _ = text.partition("\n")
    is_line = newline and len(line) <= MAX_PREAMBLE_CHARS and line.rstrip()[-1:] in TERMINATORS
    return len(line) + 1 if is_line and opens_preamble(line) and _META.search(line) else 0
