"""The content of a message as its parts make it: one text, and images between its pieces."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from spillover.edge_server.wire.errors import bad_request
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.image import Image, image_of, linked_image

_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w.=+-]+)*;base64,", re.IGNORECASE)


class ContentParts:
    """Takes the parts of one message in order. Texts are joined with line breaks, as llama.cpp's
    server does; *begin* stands before them all."""

    def __init__(self, begin: str = "") -> None:
        self._begin = begin
        self._texts: list[str] = []
        self._n_chars = len(begin)
        self._images: list[Image] = []

    def add_text(self, text: str) -> None:
        self._n_chars += len(text) + bool(self._texts)
        self._texts.append(text)

    def add_base64(self, data: Any, param: str) -> None:
        """An image by its content. A 400 that names *param* if that is none."""
        self._add(image_of, data, param)

    def add_url(self, url: Any, param: str) -> None:
        """An image by a data URL, or by a link, which is never followed here."""
        found = _DATA_URL.match(url[:256]) if isinstance(url, str) else None
        if found is not None:
            self._add(image_of, url[found.end() :], param)
        else:
            self._add(linked_image, url, param)

    def _add(self, read: Callable[[str, int], Image], value: Any, param: str) -> None:
        if not isinstance(value, str):
            raise bad_request(f"{param} must be a text", param)
        try:
            self._images.append(read(value, self._n_chars))
        except InvalidRequest as error:
            raise bad_request(f"{param}: {error}", param) from error

    @property
    def text(self) -> str:
        return self._begin + "\n".join(self._texts)

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(self._images)

    @property
    def fields(self) -> dict[str, Any]:
        """Those of a Message."""
        images = {"images": self.images} if self._images else {}
        return {"content": self.text, **images}
