"""Takes out of a request what must not leave the device, and puts it back in the answer."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator

import msgspec

from spillover.cloud_fallback.errors import RedactionFailed
from spillover.cloud_fallback.privacy.cut_ends import (
    begun_value,
    quotations,
    unfinished_value,
)
from spillover.cloud_fallback.privacy.finder import MAX_PASSES, Finder, KnownTexts, masked
from spillover.cloud_fallback.privacy.placeholders import Shapes, Vault
from spillover.cloud_fallback.privacy.plain import Span
from spillover.cloud_fallback.privacy.restorer import Restorer
from spillover.cloud_fallback.privacy.settings import PrivacySettings
from spillover.cloud_fallback.privacy.texts import Texts
from spillover.runtime.request import GenerationRequest, JsonObject, JsonSchema

NO_SHAPES = Shapes(())


class Redactor:
    """Any thread may use it. It looks through everything that a provider would see: messages,
    names, calls and their results, descriptions and schemas of tools, stop strings, the prompt."""

    def __init__(self, settings: PrivacySettings | None = None) -> None:
        """Raises InvalidRequest for an invalid pattern or region."""
        self._settings = settings or PrivacySettings()
        self._finder = Finder(self._settings)
        # 50 ms to compile.
        self._shapes = Shapes(self._finder.labels)

    def warm(self) -> None:
        """Do the work that the first request would have to wait for: about 0.1 s. Optional."""
        self._finder.warm()

    def redact(self, request: GenerationRequest, *, partial: str | None = None) -> Redacted:
        """The request as it may leave.

        *partial*: the unfinished answer that is to be continued; None: the assistant's turn if it
        is the last or the last but one, or the prompt. A private text that its end cuts off is
        taken out as a whole, and so are parts of private texts that the last turn quotes.

        Raises RedactionFailed if anything at all goes wrong: then nothing may leave.
        """
        try:
            return _Redaction(self, request, partial).result()
        except RedactionFailed:
            raise
        except Exception as error:
            # The error's own message may contain private text.
            name = type(error).__name__
            raise RedactionFailed(f"redacting the request failed ({name})") from None


class Redacted:
    """The *request* that may leave, and what restores the answers to it."""

    def __init__(
        self,
        request: GenerationRequest,
        vault: Vault,
        shapes: Shapes,
        *,
        rest: str,
        keeps_links: bool,
    ) -> None:
        self.request = request
        self.counts = vault.counts()
        """How many different texts of each kind are taken out."""
        self.rest = rest
        """The missing end of the private text that the partial answer's end cuts off. A writer
        that continues by prefill leaves it out; restorer() then puts it first."""
        self._vault = vault
        self._keeps_links = keeps_links
        self._shapes = shapes if self.counts else NO_SHAPES
        self._is_json = isinstance(request.response_format, JsonObject | JsonSchema)

    @property
    def n_redactions(self) -> int:
        return sum(self.counts.values())

    def restorer(self) -> Restorer:
        """For the text of the answer."""
        goes_on = self.request.continue_final_message or self.request.prompt is not None
        lookup = self._vault.json_value if self._is_json else self._vault.value
        return Restorer(
            self._shapes,
            lookup,
            before=self.rest if goes_on else "",
            keeps_links=self._keeps_links,
        )

    def reasoning_restorer(self) -> Restorer:
        """For reasoning."""
        return Restorer(self._shapes, self._vault.value, keeps_links=self._keeps_links)

    def argument_restorer(self) -> Restorer:
        """For the arguments of one call, which are JSON."""
        return Restorer(self._shapes, self._vault.json_value, keeps_links=False)

    def __repr__(self) -> str:
        return f"Redacted({self.counts})"


class _Redaction:
    """The redaction of one request."""

    def __init__(self, redactor: Redactor, request: GenerationRequest, partial: str | None) -> None:
        self._finder = redactor._finder
        self._shapes = redactor._shapes
        self._kinds = redactor._settings.kinds
        self._request = request
        self._partial = _partial_of(request) if partial is None else partial
        self._found: dict[str, list[Span]] = {}
        self._rest = ""

    def result(self) -> Redacted:
        Texts(self._collect, self._check).request(self._request)
        if not any(self._partial in text for text in self._found):
            self._partial = ""  # it is not sent
        if self._partial:
            self._collect(self._partial, "")
        for _ in range(MAX_PASSES):
            self._find_known()
            if self._partial:
                self._find_cut_ends()
            self._vault = self._filled_vault()
            if not self._find_beside():
                break
        else:
            raise RedactionFailed("what is taken out lets ever more of the request look private")
        request = Texts(self._changed, _pass, self._moved).request(self._request)
        self._check_that_nothing_is_left(request)
        links = any(
            text.startswith("(", one.end) for text, all_ in self._found.items() for one in all_
        )
        return Redacted(request, self._vault, self._shapes, rest=self._rest, keeps_links=not links)

    # --- finding ----------------------------------------------------------------------------

    def _collect(self, text: str, name: str) -> str:
        if text not in self._found:
            self._found[text] = self._finder.find(text)
        if name:
            named = self._finder.find_named(name, text)
            self._found[text] = _without_overlaps(named, self._found[text])
        return text

    def _check(self, name: str) -> None:
        if spans := self._finder.find(name):
            raise RedactionFailed(
                f"a name or grammar of the request contains a private text ({spans[0].kind}) and "
                "cannot be changed: remove the text, or add it to the setting privacy.allow"
            )

    def _values(self, *, beside: str | None = None) -> dict[str, str]:
        """Each private text and its kind, in order, without those of the text *beside*."""
        kinds: dict[str, str] = {}
        for text, found in self._found.items():
            for one in found if text != beside else ():
                kinds.setdefault(one.value, one.kind)
        return kinds

    def _find_known(self) -> None:
        """A text that is private in one place is private everywhere."""
        kinds = self._values()
        known = KnownTexts(kinds)
        for text, found in self._found.items():
            rest, all_ = masked(text, found), found
            # Of two numbers side by side one may have hidden the other.
            for _ in range(MAX_PASSES):
                more = [
                    Span(start, end, kinds[text[start:end]], text[start:end])
                    for start, end in known.find(rest)
                ]
                if not more:
                    break
                all_ = _without_overlaps(all_, more)
                rest = masked(rest, more)
            self._found[text] = all_

    def _find_cut_ends(self) -> None:
        answer = self._partial
        values = self._values(beside=self._last_said())
        cut = begun_value(answer, ((kind, value) for value, kind in values.items()))
        if cut:
            self._rest = cut.value[cut.end - cut.start :]
        else:
            last = self._found[answer][-1:]
            is_whole = bool(last) and last[0].end == len(answer)
            cut = None if is_whole else unfinished_value(answer, self._kinds)
        if cut:
            self._found[answer] = _without_overlaps([cut], self._found[answer])
        self._mark_quotations(answer, self._found[answer])

    def _last_said(self) -> str | None:
        """The turn after the unfinished answer, which may quote or contain it."""
        messages = self._request.messages
        if not messages or messages[-1].content == self._partial:
            return None
        return messages[-1].content

    def _mark_quotations(self, answer: str, found: list[Span]) -> None:
        last = self._last_said()
        if not found or last is None:
            return
        for place, n in quotations(last, answer):
            offset = place - (len(answer) - n)
            parts = [
                Span(max(place, one.start + offset), one.end + offset, one.kind, one.value)
                for one in found
                if one.end + offset > place
            ]
            self._found[last] = _without_overlaps(parts, self._found[last])

    def _filled_vault(self) -> Vault:
        vault = Vault(self._shapes, self._found)
        for text, found in self._found.items():
            is_json = self._is_json(text) if found else False
            for one in found:
                vault.placeholder(one.kind, one.value, is_json=is_json)
        return vault

    def _find_beside(self) -> bool:
        """Find what looks private only beside placeholders, which are shorter or longer than the
        texts that they stand for. Whether there is such a text."""
        has_more = False
        for text, found in self._found.items():
            spans = self._finder.find(self._changed(text, "")) if found else ()
            more = [part for span in spans for part in self._between(text, span)]
            self._found[text] = _without_overlaps(found, more)
            has_more |= bool(more)
        return has_more

    def _between(self, text: str, span: Span) -> Iterator[Span]:
        """The parts of *text* that *span*, a part of the changed text, has beside placeholders."""
        start = moved = 0
        for one in (*self._found[text], Span(len(text), len(text), "")):
            first = max(start, span.start - moved)
            last = min(one.start, span.end - moved)
            if first < last and text[first:last].strip():
                yield Span(first, last, span.kind, text[first:last])
            start = one.end
            if one.kind:
                moved += len(self._vault.placeholder(one.kind, one.value)) - one.end + one.start

    # --- replacing --------------------------------------------------------------------------

    def _changed(self, text: str, _name: str) -> str:
        pieces: list[str] = []
        done = 0
        for one in self._found[text]:
            pieces += (text[done : one.start], self._vault.placeholder(one.kind, one.value))
            done = one.end
        return "".join((*pieces, text[done:])) if pieces else text

    def _moved(self, text: str, place: int) -> int:
        """Where *place* of *text* is when that is changed; behind a private text that it is in."""
        moved = place
        for one in self._found[text]:
            if one.start >= place:
                break
            placeholder = self._vault.placeholder(one.kind, one.value)
            moved += len(placeholder) - (one.end - one.start) + max(one.end - place, 0)
        return moved

    def _is_json(self, text: str) -> bool:
        if text == self._partial and isinstance(
            self._request.response_format, JsonObject | JsonSchema
        ):
            return True
        if text.lstrip()[:1] not in ("{", "["):
            return False
        try:
            json.loads(text)
        except ValueError:
            return False
        return True

    def _check_that_nothing_is_left(self, request: GenerationRequest) -> None:
        encoded = msgspec.json.encode(request.without_images()).decode()
        spelled = KnownTexts(json.dumps(v, ensure_ascii=False)[1:-1] for v in self._vault.values)
        if next(spelled.find(encoded), None):
            raise RedactionFailed("a private text is in a place where it cannot be taken out")


def _pass(name: str) -> None:
    """Names have been checked already."""


def _partial_of(request: GenerationRequest) -> str:
    """The unfinished answer that the request asks to be continued."""
    if isinstance(request.prompt, str):
        return request.prompt
    for message in request.messages[-1:-3:-1]:
        if message.role == "assistant":
            return message.content
    return ""


def _without_overlaps(first: Iterable[Span], then: Iterable[Span]) -> list[Span]:
    """*first*, and what of *then* does not overlap anything before it, in order."""
    kept = sorted(first, key=_start)
    for one in then:
        index = bisect_left(kept, one.end, key=_start)
        if index == 0 or kept[index - 1].end <= one.start:
            kept.insert(index, one)
    return kept


def _start(one: Span) -> int:
    return one.start
