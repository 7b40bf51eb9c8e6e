"""Secrets in the columns of tables: Markdown, CSV, tabs, aligned blanks, HTML. The first row says
what a column holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import TypeAlias

from spillover.cloud_fallback.privacy.detectors.labels import Label, labels
from spillover.cloud_fallback.privacy.detectors.values import accepts_in_column
from spillover.cloud_fallback.privacy.plain import Span

Cell: TypeAlias = tuple[int, int]
Row: TypeAlias = list[Cell]

MAX_CELLS = 64
_MAX_HEADER_CHARS = 2048
_LINE = re.compile(r"[^\n]+")
_RULE = re.compile(r"[\s|:+=_-]+")
_TITLE = re.compile(r"[\w./#-]*(?: [\w./#()-]+){0,2}")
_QUOTED_CELL = re.compile(r'\s*"((?:[^"\n]|"")*)"\s*')
_SEPARATORS = (
    ("|", re.compile(r"\|")),
    ("\t", re.compile(r"\t")),
    (";", re.compile(r";")),
    (",", re.compile(r",")),
    ("  ", re.compile(r"[ ]{2,}")),
)
_TAG = re.compile(r"<(/?)(table|tr|t[dh])\b[^<>\0]{0,200}>", re.IGNORECASE)
_AROUND = " \t\r\"'`*_"


def secrets_in_columns(text: str) -> Iterator[Span]:
    for rows in (*_text_tables(text), *_html_tables(text)):
        header = next(rows, [])
        columns = _columns(text, header)
        if not columns:
            continue
        for row in rows:
            for index, label in columns:
                if index < len(row) and accepts_in_column(text, label, *row[index]):
                    yield Span(*row[index], "secret")


def _columns(text: str, header: Row) -> list[tuple[int, Label]]:
    """The columns whose title is nothing but a word for a secret."""
    if len(header) < 2 or header[-1][1] - header[0][0] > _MAX_HEADER_CHARS:
        return []
    columns = []
    for index, (start, end) in enumerate(header):
        for label in labels(text[start:end]):
            if (label.start == 0 and label.end >= end - start - 2) or label.end == end - start:
                columns.append((index, label))
                break
    return columns


def _text_tables(text: str) -> Iterator[Iterator[Row]]:
    """Neighbouring lines that are separated in the same way."""
    lines = [(*match.span(), _separator(match.group())) for match in _LINE.finditer(text)]
    for separator, block in groupby(lines, key=lambda line: line[2]):
        if separator:
            rows = [_row(text, start, end, separator) for start, end, _ in block]
            whole = [row for row in rows if row]
            # A sentence has commas, too; a table has as many in each line.
            if separator not in (",", ";", "  ") or _is_regular(text, whole):
                yield iter(whole)


def _separator(line: str) -> str:
    if _RULE.fullmatch(line) and ("|" in line or "+" in line):
        return "|"
    return next((name for name, pattern in _SEPARATORS if pattern.search(line.strip())), "")


def _is_regular(text: str, rows: list[Row]) -> bool:
    return (
        len(rows) > 1
        and len(rows[0]) == len(rows[1])
        and all(_TITLE.fullmatch(text, *cell) for cell in rows[0])
    )


def _row(text: str, start: int, end: int, separator: str) -> Row:
    if _RULE.fullmatch(text, start, end):
        return []
    pattern = dict(_SEPARATORS)[separator]
    cells: Row = []
    place = start
    while place <= end and len(cells) < MAX_CELLS:
        if separator in (",", ";") and (quoted := _QUOTED_CELL.match(text, place, end)):
            cells.append(quoted.span(1))
            found = pattern.match(text, quoted.end(), end)
        else:
            found = pattern.search(text, place, end)
            cells.append(_stripped(text, place, found.start() if found else end))
        if not found:
            break
        place = found.end()
    return cells


def _stripped(text: str, start: int, end: int) -> Cell:
    while start < end and text[start] in _AROUND:
        start += 1
    while start < end and text[end - 1] in _AROUND:
        end -= 1
    return start, end


def _html_tables(text: str) -> Iterator[Iterator[Row]]:
    rows: list[Row] = []
    begun: int | None = None
    for tag in _TAG.finditer(text):
        closes, name = tag[1] == "/", tag[2].lower()
        if name == "table":
            yield iter(rows)
            rows = []
        elif name == "tr" and not closes:
            rows.append([])
        elif name in ("td", "th") and rows:
            if not closes:
                begun = tag.end()
            elif begun is not None:
                rows[-1].append(_stripped(text, begun, tag.start()))
                begun = None
    yield iter(rows)
