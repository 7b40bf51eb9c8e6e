"""Recognises a preamble, which a model may write before it continues: "Sure! Here is the rest:"."""

# ruff: noqa: RUF001 - other alphabets have look-alikes of Latin letters

from __future__ import annotations

import re
from collections.abc import Iterable

from spillover.runtime.text.folding import fold

_OPENINGS = (
    r"sure|certainly|of course|absolutely|okay|ok|right|alright|understood|got it|no problem|"
    r"no worries|apologies|i apologi[sz]e|sorry|i'm sorry|my apologies|thanks|thank you|"
    r"continuing|continued|continuation|picking up|resuming|let me (?:continue|pick|resume|finish)|"
    r"as (?:requested|promised|you)|going on|where (?:was|were) (?:i|we)|happy to|glad to|great|"
    r"let's (?:continue|resume|pick)|perfect|yes\b|"
    r"i(?:'ll| will) (?:continue|pick|resume|finish|go on)|here(?:'s| is| are)|as i was saying",
    r"klar|natürlich|selbstverständlich|gern(?:e)?\b|hier (?:ist|geht|kommt)|fortsetzung|weiter|"
    r"ich (?:mache|setze|fahre|schreibe)|entschuldig|(?:es )?tut mir leid|alles klar|verstanden",
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
_TALK = (
    "absolutely alright and answer apologies apologize apologise about as at back certainly code "
    "connection continuation continue continued continues continuing course cut d did dropped "
    "exactly finish finishing follows for from go going got great happy here i interrupted "
    "interruption is it just l left let ll list m me message my no now of off ok okay on perfect "
    "pick picking point previous problem promised re ready remainder reply requested response rest "
    "resume resuming right s so sorry stopped story sure text thank thanks that the there this to "
    "understood up ve was we were what where will with worries yes you your",
    "abgebrochen alles an antwort auf aufgehört bei bin da dass dem den der des die dort du ein "
    "entschuldige entschuldigung es fahre fort fortsetzung führe gebrochen geht genau gern gerne "
    "habe hier ich ist klar kommt leid mache meine meiner mir mit natürlich nun rest satz schreibe "
    "selbstverständlich setze sie text tut unterbrechung unterbrochen verbindung verstanden von "
    "wegen weiter wir wird wo wurde worden war",
    "accord arrêté avais avait bien bon continue dans de désolé donc du entendu est exactement "
    "excuse excusez interrompu interruption je jétais j l la le là ma m mon me nous où étais pas "
    "poursuis pour problème réponse reprends reprenons reste souci suis suite sûr texte très voici",
    "aquí claro como con continuación continuando continúo de dejé del desde disculpa disculpe "
    "donde "
    "el en entendido escribiendo está estaba exactamente fue interrumpí interrupción interrumpió "
    "justo la lo lugar me mi donde perdón por punto que quedé resto respuesta se sentimos siento "
    "sigo supuesto texto tienes va vale y",
    "avevo certamente certo che con continuazione continuo da della di dispiace dove ecco ero "
    "esattamente il interrotto interruzione la lasciato mi mia parola proseguo punto resto "
    "restante rimasto riprendo risposta scusa seguito sono stato testo va bene",
    "certeza com continuação continuando continuo da desculpa desculpe de do dúvida entendi eu "
    "exatamente foi interrompido minha o onde parei ponto resposta resto sem aqui está",
    "antwoord begrepen de dit door gebleven ga gebleven het hier ik is mijn natuurlijk onderbroken "
    "prima precies tekst van verder vervolg waar was zeker",
    "ciąg dalszy dobrze jasne kontynuacja kontynuuję miejsca moja oczywiście odpowiedzi od oto "
    "przepraszam przerwałem przerwano reszta rozumiem tego w za",
    "anladım bu buradan cevabın cevap devam devamı ediyorum elbette için işte kaldığım kesildiği "
    "özür dilerim tabii tam tamam yanıtın yerden",
    "вот где за и извини извините конечно ладно место места моего на остановился остановилась "
    "остановились ответ ответа отсюда перерыв понял понятно прервался продолжаю продолжение "
    "продолжим простите с текст текста того том хорошо этого я",
    "أكمل آسف إليك إليكم أواصل استكمال الإجابة الانقطاع الباقي البقية التكملة الرد النص بالتأكيد "
    "بالطبع بقية تكملة توقفت توقفنا حسنا حسنًا حيث سأتابع سأكمل على عند عن لك من نعم هذه هذا "
    "هنا هو هي",
    "अब आगे का की के क्षमा करें चाहता जहाँ जारी ज़रूर जवाब ठीक था थी पर बाकी बिल्कुल मेरा मेरे मैं यह "
    "यहाँ रखता रखती रहा रही रुका रुकी लिखता वहीं वहाँ शेष से हिस्सा है हूँ",
    "네 물론 물론입니다 알겠습니다 이어서 계속 계속하겠습니다 나머지 내용 답변 답변입니다 부분부터 "
    "중단된 끊긴 곳부터 곳에서 여기서부터 쓰겠습니다 작성하겠습니다 이어가겠습니다 입니다 "
    "죄송합니다 다음은",
)
_TALK_WITHOUT_SPACES = (
    "好的|当然|當然|可以|没问题|沒問題|抱歉|对不起|對不起|明白|收到|我|会|會|将|將|从|從|刚才|剛才|"
    "中断|中斷|断开|斷開|停下|的|地方|位置|处|處|继续|繼續|接着|接著|写|寫|下去|以下|下面|是|这|這|"
    "里|裡|就|其余|其餘|剩余|剩餘|剩下|部分|内容|內容|回答|回复|回覆|了|"
    "はい|もちろん|承知|了解|しました|いたしました|です|ます|失礼|申し訳|ありません|途切れた|中断した|"
    "ところ|箇所|から|続き|続け|を|の|が|は|に|こちら|以下|通り|それでは|では|書き|回答|残り|"
    "แน่นอน|ครับ|ค่ะ|ได้เลย|ขออภัย|นี่คือ|ส่วนที่เหลือ|ต่อ|จาก|ที่|ค้าง|ไว้|เขียน|จะ"
)


def _longest_first(words: Iterable[str]) -> str:
    return "|".join(sorted({*words}, key=len, reverse=True))


_ALL_TALK = re.compile(
    rf"(?>(?<!\w)(?>{_longest_first(' '.join(_TALK).split())})(?!\w)"
    rf"|{_longest_first(_TALK_WITHOUT_SPACES.split('|'))}|[\s,.!:;…—–\-'’()¡*_>#。、，：！،؛])*+",
    re.IGNORECASE,
)
"""Only words of talk about the interruption. Speech in quotation marks is a story's."""

MAX_PREAMBLE_CHARS = 200
SHORT_CHARS = 60
LONGEST_WORD_CHARS = 12
TERMINATORS = frozenset("\n:.!?…。—\uff01\uff1a\uff1f")
_LAST = TERMINATORS | frozenset(",\"'«“\u2018„`*>[(<-\u2013\uff0c、،")
_LAST_WORD = re.compile(r"\S*\Z")
_SENTENCE = re.compile(r"[^\n:.!?…。—！：？]*[\n:.!?…。—！：？\s]*")
_FIRST_LINE = re.compile(r"\s*(?:[^\n]+\n\s*|[^\n:\uff1a]+[:\uff1a]\s*)")
_FIRST_CLAUSE = re.compile(r"\s*[^\n:\uff1a]+[:\uff1a]\s*")


def opens_preamble(text: str) -> bool:
    """Whether *text* begins with a word that opens a preamble, not an answer."""
    return _OPENING.match(text) is not None


def is_preamble(text: str) -> bool:
    """Whether *text* is about the answer that follows it: each sentence mentions the interruption
    or opens as preambles do, and two of three hold for all of it: it is short and set apart, it
    mentions the interruption, it opens as preambles do."""
    if len(text) > MAX_PREAMBLE_CHARS:
        return False
    sentences = [found for found in _SENTENCE.findall(text) if any(map(str.isalpha, found))]
    if not all(opens_preamble(sentence) or _META.search(sentence) for sentence in sentences):
        return False
    is_short = len(text) <= SHORT_CHARS and fold(text)[-1:] in _LAST
    return is_short + (_META.search(text) is not None) + opens_preamble(text) >= 2


def may_be_talk(text: str) -> bool:
    """Whether *text*, which may end within a word, has only words of talk about the
    interruption."""
    if len(text) > MAX_PREAMBLE_CHARS:
        return False
    words = _LAST_WORD.sub("", text)
    ends = [text, words] if len(text) - len(words) <= LONGEST_WORD_CHARS else [text]
    if text[-1:] >= "\u0e00":  # Thai, Chinese and Japanese do not separate words
        ends += (text[: len(text) - n] for n in (1, 2, 3))
    return any(end.strip() and _ALL_TALK.fullmatch(end) for end in ends)


def talk_length(text: str) -> int:
    """Length of a first line or clause of *text* that can only be talk about the interruption, and
    of the white space after it; else 0."""
    for part in (_FIRST_LINE, _FIRST_CLAUSE):
        found = part.match(text)
        if found and is_preamble(found[0]) and _ALL_TALK.fullmatch(found[0]):
            return found.end() if _META.search(found[0]) and opens_preamble(found[0]) else 0
    return 0
