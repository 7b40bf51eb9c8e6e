"""The files in which the system describes the machine, under a root that tests replace."""

from __future__ import annotations

from pathlib import Path

_MOST_BYTES = 1 << 20


class SystemFiles:
    """Paths are relative to *root*, without a leading slash. What is missing, cannot be read or has
    another form is None, never an error."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def text(self, path: str) -> str | None:
        """The content, without white space around it."""
        try:
            with (self._root / path).open("rb") as file:
                return file.read(_MOST_BYTES).decode("utf-8", "replace").strip("\0\n\t ")
        except (OSError, ValueError):
            return None

    def number(self, path: str) -> int | None:
        """The integer that is all of the content."""
        try:
            return int(self.text(path) or "")
        except ValueError:
            return None

    def fields(self, path: str) -> list[tuple[str, str]]:
        """The "name: value" lines, in their order."""
        lines = (line.partition(":") for line in (self.text(path) or "").splitlines())
        return [(name.strip(), value.strip()) for name, colon, value in lines if colon]

    def field(self, path: str, name: str) -> str | None:
        """The value of the first "name: value" line with this name."""
        return next((value for found, value in self.fields(path) if found == name), None)

    def counts(self, path: str) -> dict[str, int]:
        """The "name number" lines."""
        pairs = (line.split() for line in (self.text(path) or "").splitlines())
        return {p[0]: int(p[1]) for p in pairs if len(p) == 2 and p[1].isdigit()}

    def matching(self, pattern: str) -> list[str]:
        """The paths that match *pattern*, sorted."""
        try:
            found = [path.relative_to(self._root) for path in self._root.glob(pattern)]
        except OSError:
            return []
        return sorted(path.as_posix() for path in found)

    def cpus(self, path: str) -> frozenset[int] | None:
        """A list of processors, such as "0-3,8"."""
        return cpus_of(self.text(path))


def cpus_of(text: str | None) -> frozenset[int] | None:
    """The numbers in a list such as "0-3,8"; None if it has another form."""
    if not text:
        return None
    cpus = set[int]()
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            low, high = int(first), int(last or first)
        except ValueError:
            return None
        if not 0 <= low <= high < 1 << 16:
            return None
        cpus.update(range(low, high + 1))
    return frozenset(cpus)
