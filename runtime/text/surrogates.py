"""Half surrogate pairs: Python's texts may hold them, UTF-8 may not."""

from __future__ import annotations


def valid_text(text: str) -> str:
    """*text* as UTF-8 can carry it: half a surrogate pair, which a provider or a chat template may
    write, becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
