"""From what a provider says to what is to be done about it.

No word of the provider's prose is passed on: it may repeat the prompt, the answer or the key. A
message is made of our own words, the status, and the provider's code where that is a known one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from spillover.cloud_fallback.errors import (
    AuthFailed,
    BillingFailed,
    ContentBlocked,
    ContextExceeded,
    NetworkFailed,
    NotNow,
    Overloaded,
    ProviderError,
    ProviderRefused,
    RateLimited,
    Truncated,
)
from spillover.cloud_fallback.providers.dialects import vocabulary
from spillover.cloud_fallback.providers.dialects.failure import Failure, read_answer, read_tail


def answer_error(
    provider: str, status: int, headers: Mapping[str, str], body: bytes
) -> ProviderError:
    """The error that an HTTP answer other than 200 stands for."""
    return error_of(provider, read_answer(status, headers, body))


def ended_without_terminal(provider: str, tail: bytes) -> ProviderError:
    """The error of a stream that ended too early: the one told in its *tail*, else Truncated."""
    failure = read_tail(tail)
    if failure is not None:
        return error_of(provider, failure)
    return Truncated(provider, "the stream ended before the answer was complete")


def unknown_end(provider: str) -> ProviderError:
    """The error of an answer that ended for a reason which may mean anything: not a stop."""
    return ProviderError(provider, "ended the answer for a reason that is not known here")


def error_of(provider: str, failure: Failure) -> ProviderError:
    """The error class that *failure* belongs to: by its codes, then by its status."""
    error = _by_words(provider, failure) or _by_status(provider, failure)
    if isinstance(error, NotNow):
        error.retry_after_s = failure.retry_after_s
        error.may_retry = failure.may_retry is not False
    return error


def _by_words(provider: str, failure: Failure) -> ProviderError | None:
    codes, prose, status = failure.codes, failure.prose, failure.status
    is_about_request = status in (None, 400, 403, 413, 422)
    if codes & vocabulary.BILLING or (is_about_request and vocabulary.BILLING_PROSE.search(prose)):
        return BillingFailed(provider, _said("no money or quota is left for this key", failure))
    if codes & vocabulary.CONTENT or (is_about_request and vocabulary.CONTENT_PROSE.search(prose)):
        return ContentBlocked(provider, _said("stopped by the content policy", failure))
    if codes & vocabulary.CONTEXT or (is_about_request and vocabulary.CONTEXT_PROSE.search(prose)):
        return ContextExceeded(
            provider, _said("the conversation is longer than the model can read", failure)
        )
    if (
        failure.may_retry
        and not codes & (vocabulary.AUTH | vocabulary.RATE)
        and status not in (401, 402, 403, 429)
    ):
        return Overloaded(provider, _said("asks to be tried again", failure))
    if codes & vocabulary.AUTH:
        return _auth(provider, failure)
    if codes & vocabulary.RATE and status in (None, 429):
        return _rate(provider, failure)
    if status is None and codes & vocabulary.OVERLOADED:
        return _overloaded(provider, failure)
    if status is None and codes & vocabulary.REFUSED:
        return _refused(provider, failure)
    return None


def _by_status(provider: str, failure: Failure) -> ProviderError:
    status = failure.status
    if status is None:
        return ProviderError(provider, _said("broke off with an error", failure))
    if status == 402:
        return BillingFailed(provider, _said("no money or quota is left for this key", failure))
    if status == 407:
        return NetworkFailed(provider, _said("the proxy on the way wants a password", failure))
    if status == 403 and failure.prose.startswith("<"):
        # A web page is of something on the way, which says nothing of the key.
        return Overloaded(provider, _said("was kept away by something on the way", failure))
    if status in (401, 403):
        return _auth(provider, failure)
    if status == 429:
        return _rate(provider, failure)
    if status >= 500 or status in (408, 409, 424, 425):
        return _overloaded(provider, failure)
    if 300 <= status < 400:
        return ProviderRefused(provider, _said("sends elsewhere: check base_url", failure))
    if status >= 400:
        return _refused(provider, failure)
    return ProviderError(provider, _said("gave an answer that is none", failure))


def _auth(provider: str, failure: Failure) -> ProviderError:
    return AuthFailed(
        provider, _said("the key is missing, wrong, or may not use this model", failure)
    )


def _rate(provider: str, failure: Failure) -> ProviderError:
    return RateLimited(provider, _said("too many requests or tokens", failure))


def _overloaded(provider: str, failure: Failure) -> ProviderError:
    return Overloaded(provider, _said("has no capacity now, or is still starting", failure))


def _refused(provider: str, failure: Failure) -> ProviderError:
    said = "does not take this request"
    if failure.status == 404:
        said = "knows no such model or address: check model and base_url"
    no_prefill = vocabulary.NO_PREFILL.search(failure.prose) is not None
    if no_prefill:
        said = "the model does not continue an assistant's turn"
    unsupported = None if no_prefill else _unsupported_field(failure)
    if unsupported is not None:
        said = f"the model does not take {unsupported}"
    return ProviderRefused(
        provider, _said(said, failure), no_prefill=no_prefill, unsupported=unsupported
    )


def _unsupported_field(failure: Failure) -> str | None:
    """The optional field that is refused: one of ours, so its name may be shown."""
    if failure.param in vocabulary.OPTIONAL and (
        vocabulary.UNSUPPORTED.search(failure.prose)
        or any("unsupported" in code for code in failure.codes)
    ):
        return failure.param
    if vocabulary.UNSUPPORTED.search(failure.prose) is None:
        return None
    named = (
        (failure.prose.find(field.lower()), field)
        for field in vocabulary.OPTIONAL
        if re.search(rf"\b{field.lower()}\b", failure.prose)
    )
    return min(named, default=(0, None))[1]


def _said(words: str, failure: Failure) -> str:
    facts = [f"status {failure.status}"] if failure.status else []
    facts += [failure.shown] if failure.shown else []
    return f"{words} ({', '.join(facts)})" if facts else words
