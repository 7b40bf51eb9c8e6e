"""Names for models and files that come from elsewhere: such as every system takes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from itertools import count
from pathlib import PurePosixPath
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from spillover.models.at_path import part_names, stem_of
from spillover.models.source import HubSource, Source, UrlSource, WheelSource

_MOST_CHARACTERS = 90
_MOST_TAG_CHARACTERS = 50
_ENDING = re.compile(r"(?P<stem>.*?)(?P<ending>(?:-\d{5}-of-\d{5})?\.\w{1,8})?", re.ASCII)


def name_of(source: Source) -> str:
    """What to call the model from *source*; a model may be called so (`is_name`)."""
    match source:
        case HubSource(repository, wanted):
            if "." in PurePosixPath(wanted).name:
                return _valid(stem_of(PurePosixPath(wanted).name))
            name = repository.partition("/")[2].removesuffix("-GGUF").removesuffix("-gguf")
            tag = _plain(wanted)[:_MOST_TAG_CHARACTERS]
            return f"{_valid(name)}:{tag}" if tag else _valid(name)
        case UrlSource() | WheelSource():
            return _valid(stem_of(_last_part(source)))


def free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """*name*, or with the first number behind it that makes it free."""
    stem, colon, tag = name.partition(":")
    numbered = (f"{stem}-{n}{colon}{tag}" for n in count(2))
    return name if not is_taken(name) else next(each for each in numbered if not is_taken(each))


def file_name_of(source: UrlSource | WheelSource) -> str:
    """What to call the file from *source* on this device."""
    match = _ENDING.fullmatch(_last_part(source))
    stem, ending = (match["stem"], match["ending"]) if match else ("", "")
    return f"{_valid(stem)}{ending or ''}"


def parts_of(source: UrlSource) -> list[UrlSource]:
    """The addresses of all parts of the model that *source* is a part of, or just *source*."""
    url = urlsplit(source.url)
    place, _, last = url.path.rpartition("/")
    names = part_names(unquote(last))
    if len(names) == 1:
        return [source]
    return [UrlSource(urlunsplit(url._replace(path=f"{place}/{quote(name)}"))) for name in names]


def _last_part(source: UrlSource | WheelSource) -> str:
    path = unquote(urlsplit(source.url).path) if isinstance(source, UrlSource) else source.file
    return PurePosixPath(path).name


def _valid(text: str) -> str:
    return _plain(text).lstrip("._+-")[:_MOST_CHARACTERS].rstrip("._-") or "model"


def _plain(text: str) -> str:
    """*text* with a hyphen for everything but letters and digits of ASCII and `_.+-`."""
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^\w.+-]+", "-", letters)
