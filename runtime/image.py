"""An image in a conversation. A local model reads only text; providers may see images."""

from __future__ import annotations

import binascii
from typing import Annotated

from msgspec import Meta, Struct

from spillover.runtime.errors import InvalidRequest

MAX_IMAGES = 64
"""In one conversation."""
MAX_IMAGE_BYTES = 10 * 2**20
MAX_URL_CHARS = 8_192
_NEEDED_CHARS = 16
"""Of base64, which begins with what tells an image's type: 12 bytes."""
_STANDARD = str.maketrans("-_", "+/", " \t\r\n")


class Image(Struct, frozen=True, kw_only=True):
    """An image by its *data* or by its *url*; the other one is empty."""

    media_type: str = ""
    """Of *data*: "image/png", …"""
    data: str = ""
    """Base64, with padding."""
    url: str = ""
    """Http or https. Spillover never fetches it."""
    at: Annotated[int, Meta(ge=0)] = 0
    """Before which character of its message's content it stands."""


def image_of(data: str, at: int = 0) -> Image:
    """The image whose content is the base64 *data*, in either alphabet. Its own first bytes tell
    the type. Raises InvalidRequest."""
    if len(data) > MAX_IMAGE_BYTES * 4 // 3 + 4:
        most = MAX_IMAGE_BYTES // 2**20
        raise InvalidRequest(f"the image has more than {most} MiB: send a smaller one")
    text = data.translate(_STANDARD).rstrip("=")
    text += "=" * (-len(text) % 4)
    try:
        binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise InvalidRequest("the image is not base64: encode its bytes") from error
    media_type = _media_type(binascii.a2b_base64(text[:_NEEDED_CHARS]))
    if media_type is None:
        raise InvalidRequest("the image is none of PNG, JPEG, WebP and GIF: convert it to one")
    return Image(media_type=media_type, data=text, at=at)


def linked_image(url: str, at: int = 0) -> Image:
    """The image at *url*. Raises InvalidRequest."""
    if not url.startswith(("https://", "http://")):
        raise InvalidRequest("an image's URL must begin with https://, http:// or data:")
    if len(url) > MAX_URL_CHARS or not url.isprintable() or " " in url:
        raise InvalidRequest(f"an image's URL has at most {MAX_URL_CHARS} characters, no blanks")
    return Image(url=url, at=at)


def _media_type(head: bytes) -> str | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None
