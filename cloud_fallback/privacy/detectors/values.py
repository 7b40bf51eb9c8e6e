"""Whether a text after a word is the private text that the word promises, and not code, a word of
the sentence or a placeholder."""

# ruff: noqa: RUF001 - signs of other writings

from __future__ import annotations

import re

from spillover.cloud_fallback.privacy.detectors.joins import Candidate
from spillover.cloud_fallback.privacy.detectors.labels import Label
from spillover.cloud_fallback.privacy.detectors.randomness import is_drawn
from spillover.cloud_fallback.privacy.detectors.words import EMPTY_WORDS, PREDICATES

MIN_PASSWORD_CHARS = 4
_STANDS_FOR_ONE = re.compile(
    r"\$\{|\$\(|\{\{|\{%|<[^<>]*>?|%\(|%[sdr]|%\w+%|\[[A-Z_]+_\d+\]|\$[A-Za-z_]\w*\Z|@\w+@|\{[\w.]*\}|#\{|[a-z:]{2,24}:`"
)
_STARS = re.compile(r"[*x•.…_#?:-]+\Z", re.IGNORECASE)
_PROGRAM_WORDS = re.compile(
    r"str|string|bytes|text|none|null|nil|true|false|yes|no|on|off|undefined|optional|required|any"
    r"|object|secretstr|password|passwd|passphrase|passwort|pwd|pass|pw|secret|token|bool|boolean|int|integer|number"
    r"|hidden|input|field|char|varchar|env|credentials?|hash|hashed|hashes|value|val|plain|raw|encrypted"
    r"|self|this|args?|kwargs|default|data|key|new|get|set|is|has|not|empty|unset|invalid|valid"
    r"|incorrect|wrong|missing|weak|strong|protected|return|await|const|let|var|function|class|type",
    re.IGNORECASE,
)
_CODE = re.compile(
    r"(?:[A-Za-z_]\w*(?:\.|->|::|\?\.))*[A-Za-z_]\w*(?:\(|\[)"
    r"|(?:[A-Za-z_]\w*(?:\.|->|::))+[A-Za-z_]+\Z"
    r"|(?:self|this|args|request|req|config|settings|process|os|env|ctx|data|user|options)\.\w"
    r"|[{(\[<%:/!=]|\$\w+->|&\w+[;.]"
)
_SETTING = re.compile(r"\??[A-Za-z_][\w-]*=[^=]")
_NAME = re.compile(r"[A-Za-z]+(?:_[A-Za-z]+)*\Z|[a-z]+(?:[A-Z][a-z]+)+\Z")
_WORD = re.compile(r"[^\W\d_]+\Z")
_SECRET_WORD = re.compile(r"passw|passphrase|pwd|secret|token|credential|kennwort", re.IGNORECASE)
_TECHNICAL = re.compile(
    r"(?:sha|md|utf|base|aes|rsa|hs|rs|es|ipv|oauth|tls|ssl|https?|v|php|py|python|java|win|windows|mp|x"
    r"|h|bcrypt|argon|scrypt|pbkdf|blake|crc|ascii|latin|iso|rfc|cp|level|step|chapter|version"
    r"|line|page|table|figure|section|part|item|day|week|room|user|node|host|port|field|col|row|test|q)"
    r"[-_ ]?\d+(?:[-_.]\w+)*|\d+(?:st|nd|rd|th|px|%|x|k|m|s|h|d|bits?|bytes?|chars?|days?|min)"
    r"|[A-Za-z_-]+\.(?:[A-Za-z]\w{0,3}|7z)|\d+[-–/.:]\d+(?:[-–/.:]\d+)*|[\d.,]+[%$€£]|\d+[.,]\d+|[$€£][\d.,]+",
    re.IGNORECASE,
)
_END_OF_ENTRY = re.compile(r"""\s{0,2}(?:[\n,;|"')]|\.(?:\s|\Z)|\Z)""")
_END_OF_LINE = re.compile(r"[ \t]{0,8}(?:\r?\n|\Z|[;&])")
_SETTINGS_BEFORE = re.compile(r"[A-Za-z_]\w*=\S+[ ]\Z")
"""As in "host=db user=bob password=…"."""
_NEXT_SETTING = re.compile(r"[ ][A-Za-z_]\w*=\S")
_ALONE_BEFORE = re.compile(r"(?:^|\n)[ \t]*(?:[-#*>][ \t]+)?[\"'*_`]{0,2}\Z")
_STRONG_NAME = re.compile(
    r"(?:api|access|auth|secret)[ _-]?key\Z|(?:\w[ _-])?secret\Z", re.IGNORECASE
)
_GROUPS = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{2,8}){2,7}")
"""abc-123-xyz-789"""
_UNIT = re.compile(
    r"\s(?:bytes?|bits?|char(?:acter)?s?|digits?|letters|zeichen|caract[eè]res|caratteri)\b",
    re.IGNORECASE,
)
_TYPE = re.compile(r"(?:\w+\.)*\w+(?:Keys?|Tokens?|Secrets?|Types?)\Z")
"""Of a variable: private_key: Ed25519PrivateKey."""
_PATH = re.compile(r"~?(?:/[\w.-]+){2,}/?\Z")
"""As in PWD="/home/jane"."""
_LISTED_BEFORE = re.compile(r"(?:,|/|\band|\bund|\bet|\by|\be)\s?\Z")
_NAMED_SECRET = re.compile(r"\barn:[\w-]{1,16}:secretsmanager:[\w-]{0,32}:\d{0,12}:\Z")
"""Amazon's names of secrets are none."""
_NUMBERED = re.compile(r"[A-Za-z_.-]*\d{1,2}|[A-Za-z]+(?:[_.:/-][A-Za-z0-9]*)+")
"""Names with a number: layer12, us-east-1."""
_NUMBER = re.compile(r"arn:.*|S-1-[\d-]+|0x[0-9a-fA-F]{1,16}|[\d.]+")
_BEFORE_CHARS = 96
_MINE = re.compile(r"\b(?:my|our)\s(?:[\w-]{1,20}\s){0,3}\Z", re.IGNORECASE)
_PARTICIPLE = re.compile(r"\w+(?:ed|ing|able|ible|ful|less|ly|ive|ous|ory|ent|ant)\Z")
_DIGITS = re.compile(
    r"[#*]?\d{3,8}[#*]?|\d(?:[ -]\d){3,7}|\d{1,2}(?:[ -]\d{1,2}){1,3}|\d{3}[ -]\d{3}"
)
_CODES = re.compile(
    r"[#*]?\d{4,8}[#*]?|\d{2,4}(?:[ -]\d{2,4}){1,3}"
    r"|(?=[A-Za-z-]*\d)[A-Za-z0-9]{4,12}(?:-[A-Za-z0-9]{2,12}){0,5}"
)
_SHORT_PIN = re.compile(r"c[vi][vcd]2?|secur|sicher|seguri|sicur|sécu|prüf|verific|crypt", re.I)


def accepts(text: str, label: Label, found: Candidate) -> bool:
    value = text[found.start : found.end]
    if stands_for_one(value):
        return False
    if label.sort == "password":
        return _is_password(text, label, found, value)
    if label.sort in ("secret", "key", "login"):
        return _is_key(text, label, found, value)
    if label.sort == "pin":
        return _is_pin(text[label.start : label.end], found, value)
    if label.sort == "code":
        return bool(_CODES.fullmatch(value)) and not _TECHNICAL.fullmatch(value)
    return False


def accepts_in_column(text: str, label: Label, start: int, end: int) -> bool:
    """Whether a cell below the title *label* is such a secret."""
    value = text[start:end]
    if label.sort != "password":
        return accepts(text, label, Candidate(start, end, "set"))
    return len(value) >= MIN_PASSWORD_CHARS and not (
        stands_for_one(value)
        or _PROGRAM_WORDS.fullmatch(value)
        or value.lower() in PREDICATES
        or (" " in value and not is_mixed(value))
    )


def stands_for_one(value: str) -> bool:
    """A placeholder, a variable, or stars."""
    if _STANDS_FOR_ONE.match(value) or _STARS.fullmatch(value):
        return True
    words = re.findall(r"[A-Za-z]+", value)
    return (
        len(words) > 1
        and all(word.lower() in EMPTY_WORDS for word in words)
        and (not any(map(str.isdigit, value)))
    )


def is_mixed(value: str) -> bool:
    """Of letters with digits or signs, as passwords are and words are not."""
    if len(value) < MIN_PASSWORD_CHARS or _TECHNICAL.fullmatch(value) or _CODE.match(value):
        return False
    letters = any(map(str.isalpha, value))
    if any(map(str.isdigit, value)):
        return letters or len(value) >= 6
    return letters and any(sign in "!@#$%^&*+=~" for sign in value[1:-1])


def _is_password(text: str, label: Label, found: Candidate, value: str) -> bool:
    if len(value) < MIN_PASSWORD_CHARS:
        return False
    if found.join != "shown" and _DIGITS.fullmatch(value) and len(value) >= MIN_PASSWORD_CHARS:
        return found.join in ("set", "said") and not _UNIT.match(text, found.end)
    if found.join in ("beside", "said") and not _is_noun(text, label, found):
        return False
    if found.is_quoted:
        return _is_quoted_password(found, value)
    if found.join != "set":
        if " " in value or _SETTING.match(value):
            return False
        return is_mixed(value) or (found.join == "said" and _is_my_word(text, label, found, value))
    if " " in value:
        return all(map(is_mixed, value.split()))
    if _CODE.match(value) or text[found.end : found.end + 1] in ("(", "["):
        return False
    if found.sign.startswith("=="):
        return False
    if _NAME.match(value) or _WORD.match(value.rstrip("!?")):
        return _is_set_to_a_word(text, label, found, value)
    return True


def _is_noun(text: str, label: Label, found: Candidate) -> bool:
    """Whether "pass" is short for a password: "user bob, pass …", not "pass x to f"."""
    if text[label.start : label.end].lower() != "pass":
        return True
    value = text[found.start : found.end]
    if found.join == "beside" and (_NAME.match(value) or value.startswith("--")):
        return False
    return bool(_LISTED_BEFORE.search(text, max(0, label.start - 8), label.start))


def _is_quoted_password(found: Candidate, value: str) -> bool:
    if _PROGRAM_WORDS.fullmatch(value) or value[0] in "),;]}+ '\"" or _PATH.match(value):
        return False
    if found.join == "shown":
        return is_mixed(value)
    if found.join in ("said", "beside") and value.lower() in PREDICATES:
        return False
    if _SECRET_WORD.search(value) and (" " in value or "_" in value):
        return False
    return found.join != "beside" or " " not in value or is_mixed(value)


def _is_set_to_a_word(text: str, label: Label, found: Candidate, value: str) -> bool:
    """PASSWORD=changeme, or "password: letmein" before punctuation or the end of the line."""
    if _PROGRAM_WORDS.fullmatch(value) or _SECRET_WORD.search(value):
        return False
    before = text[label.start - 1 : label.start]
    if before in ("?", "&", "-"):
        return True
    if found.sign.startswith("="):
        if label.is_variable or text[label.start].isupper():
            return "_" not in value
        close = found.start == label.end + 1
        if _SETTINGS_BEFORE.search(text, max(0, label.start - _BEFORE_CHARS), label.start):
            return close and bool(
                _END_OF_LINE.match(text, found.end) or _NEXT_SETTING.match(text, found.end)
            )
        return close and before in ("", "\n", ";") and bool(_END_OF_LINE.match(text, found.end))
    if found.sign == "" or found.sign in ("->", "→"):
        return bool(found.sign == "" and _WORD.match(value))
    return (
        value.lower() not in PREDICATES
        and "_" not in value
        and bool(_END_OF_ENTRY.match(text, found.end))
    )


def _is_my_word(text: str, label: Label, found: Candidate, value: str) -> bool:
    """ "My password is swordfish.", but not "my password is wrong."."""
    word = value.rstrip("!?.")
    return (
        bool(_MINE.search(text, max(0, label.start - 64), label.start))
        and bool(_WORD.match(word) and _END_OF_ENTRY.match(text, found.end))
        and word.lower() not in PREDICATES
        and not _PARTICIPLE.match(word)
        and not _PROGRAM_WORDS.fullmatch(word)
    )


def _is_key(text: str, label: Label, found: Candidate, value: str) -> bool:
    if _CODE.match(value) or text[found.end : found.end + 1] in ("(", "["):
        return False
    if not found.is_quoted and (
        _SETTING.match(value) or _TYPE.match(value) or found.sign.startswith("==")
    ):
        return False
    if _NUMBER.fullmatch(value):
        return False
    if _NAMED_SECRET.search(text, max(0, label.start - _BEFORE_CHARS), label.start):
        return False
    if text[label.start - 1 : label.start] in ("?", "&") and found.sign == "=":
        return is_drawn(value) or _is_query_secret(label, value)
    if label.sort == "key":
        return is_drawn(value, surely=not found.is_quoted or found.join == "shown")
    if is_drawn(value, surely=found.join == "beside" and not found.is_quoted):
        return True
    if found.join == "said" and _is_of_groups(value):
        return True
    if found.join != "set" or " " in value or len(value) < 6:
        return False
    if found.sign == ":" and _is_alone(text, label, found) and _is_word_of_a_key(value):
        return True
    mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    if mixed and found.sign in (":", "=") and not _is_name(value):
        return True
    if _PROGRAM_WORDS.fullmatch(value):
        return False
    if label.is_variable and found.sign == "=":
        is_close = "=" in text[label.end : label.end + 1]
        return value.lower() not in PREDICATES and (is_close or (mixed and found.is_quoted))
    in_query = text[label.start - 1 : label.start] in ("?", "&")
    return mixed and (
        in_query or (found.is_quoted and not _TECHNICAL.fullmatch(value) and _signed(value))
    )


def _is_of_groups(value: str) -> bool:
    """abc-123-xyz-789, but not us-east-1 or release-2024-06-01."""
    groups = value.split("-")
    numbers = [group for group in groups if any(map(str.isdigit, group))]
    return bool(
        _GROUPS.fullmatch(value)
        and len(numbers) > 1
        and len(groups) - len(numbers) > 1
        and not _TECHNICAL.fullmatch(value)
    )


def _is_alone(text: str, label: Label, found: Candidate) -> bool:
    """Whether a line holds nothing but the name of a secret and its value."""
    before = _ALONE_BEFORE.search(text, max(0, label.start - _BEFORE_CHARS), label.start)
    named = _STRONG_NAME.search(text[label.start : label.end])
    return bool(before and named and _END_OF_LINE.match(text, found.end + found.is_quoted))


def _is_word_of_a_key(value: str) -> bool:
    """Any word or two, which a setting of a program or the name of a secret is not."""
    if _PROGRAM_WORDS.fullmatch(value) or value.lower() in PREDICATES or "_" in value:
        return False
    if any(map(str.isdigit, value)):
        of_parts = "-" in value and _SECRET_WORD.search(value)
        return not (of_parts or _TECHNICAL.fullmatch(value))
    return value.isalpha() and value.islower()


def _is_name(value: str) -> bool:
    """Of something in a program or a configuration: layer12, us-east-1, session_token_2."""
    name = value.rstrip("=")
    return bool(
        _NUMBERED.fullmatch(name)
        or _TECHNICAL.fullmatch(name)
        or _SECRET_WORD.search(name)
        or (name.isidentifier() and "_" in name)
    )


def _is_query_secret(label: Label, value: str) -> bool:
    """Of a URL: any text after a name such as token, one with a digit after key."""
    if label.sort == "key":
        return is_mixed(value) and len(value) >= 6 and not _NUMBERED.fullmatch(value)
    return len(value) >= MIN_PASSWORD_CHARS and not _PROGRAM_WORDS.fullmatch(value)


def _signed(value: str) -> bool:
    return any(sign in "!@#$%^&*+=~" for sign in value)


def _is_pin(name: str, found: Candidate, value: str) -> bool:
    if not _DIGITS.fullmatch(value):
        return False
    if sum(map(str.isdigit, value)) < MIN_PASSWORD_CHARS and not _SHORT_PIN.search(name):
        return False
    said_beside = found.join == "beside" and name in ("pin", "pins", "puk")
    return not (said_beside or name in ("tan", "otp"))
