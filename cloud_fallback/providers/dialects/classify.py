"""Decides what a provider's failure means: which error it becomes.

None of the provider's prose is passed on: it may repeat the prompt, the answer or the key. A
message consists of our own words, the status, and the provider's code where that is a known one.
"""

from __future__ import annotations

import re
from typing import TypeAlias

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
from spillover.cloud_fallback.providers.dialects.failure import Failure, read_tail


def _codes(text: str) -> frozenset[str]:
    """Error codes, in lower case without punctuation: "insufficient_quota", "InsufficientQuota" and
    "INSUFFICIENT_QUOTA" are one."""
    return frozenset(text.split())


_MESSAGES: dict[type[ProviderError], str] = {
    BillingFailed: "no money or quota is left for this key",
    ContentBlocked: "blocked by the content policy",
    ContextExceeded: "the conversation is longer than the model's context",
    AuthFailed: "the key is missing, wrong, or may not use this model",
    RateLimited: "too many requests or tokens",
    Overloaded: "has no capacity now, or is still starting",
    ProviderRefused: "does not take this request",
}
_ABOUT_REQUEST: tuple[tuple[type[ProviderError], frozenset[str], re.Pattern[str]], ...] = (
    (
        BillingFailed,
        _codes(
            "insufficientquota billingerror billinghardlimitreached billingnotactive "
            "insufficientbalance insufficientcredits paymentrequired contractspendlimitreached "
            "enforcedspendlimitreached linkedorganizationspendlimitreached "
            "linkedorganizationbillingunavailable organizationonhold budgetexceeded"
        ),
        re.compile(r"credit balance is too low|insufficient balance"),
    ),
    (
        ContentBlocked,
        _codes(
            "contentfilter contentpolicyviolation responsibleaipolicyviolation moderationblocked "
            "datainspectionfailed contentblocked guardrailintervened"
        ),
        re.compile(
            r"content management policy|content filtering policy|blocked by (?:our )?content|"
            r"flagged (?:by|as|for)"
        ),
    ),
    (
        ContextExceeded,
        _codes(
            "contextlengthexceeded contextwindowexceeded exceedcontextsizeerror "
            "stringabovemaxlength modelcontextwindowexceeded"
        ),
        re.compile(
            r"maximum context length|context (?:length|window|size)|prompt is too long|"
            r"input (?:is|was) too long|input token count|too many (?:input |total )?tokens|"
            r"exceeds? the (?:maximum|max|available)[^.]{0,40}(?:token|context)|"
            r"inputs?\W+tokens?[^.]{0,80}must (?:be|have)"
        ),
    ),
)
"""(What it is, its codes, its phrases in prose), whatever the status."""
_AUTH = _codes(
    "authenticationerror permissionerror invalidapikey apikeyinvalid unauthenticated "
    "permissiondenied accessdenied accessdeniedexception unrecognizedclientexception "
    "expiredtokenexception invalidsignatureexception missingauthenticationtoken "
    "missingauthenticationtokenexception incompletesignature accountdeactivated "
    "unsupportedcountryregionterritory unauthorized forbidden optinrequired"
)
_RATE = _codes(
    "ratelimiterror ratelimitexceeded ratelimitreached ratelimit toomanyrequests "
    "toomanyrequestsexception resourceexhausted throttlingexception "
    "ramplimitexceeded servicequotaexceededexception tokens requests"
)
_OVERLOADED = _codes(
    "overloadederror overloaded servererror apierror internalerror internalservererror "
    "internalserverexception internal unavailable serviceunavailable serviceunavailableexception "
    "timeouterror modelstreamerrorexception modeltimeoutexception modelnotreadyexception "
    "modelerrorexception deadlineexceeded badgateway engineoverloaded aborted generation "
    "timeout"
)
_REFUSED = _codes(
    "invalidrequesterror badrequest badrequesterror validationexception validation "
    "invalidargument notfounderror notfound modelnotfound failedprecondition invalidprompt "
    "resourcenotfoundexception requesttoolarge unprocessableentity outofrange"
)
_KNOWN_CODES = frozenset().union(
    *(codes for _, codes, _ in _ABOUT_REQUEST),
    _AUTH,
    _RATE,
    _OVERLOADED,
    _REFUSED,
    _codes(
        "conflict deploymentnotfound requestforbidden unsupportedvalue unsupportedparameter "
        "operationnotsupported incompletegeneration cancelled"
    ),
)
"""The only codes that a message may show."""
_NO_PREFILL = re.compile(
    r"prefill|(?:must|should|needs? to) end with an? (?:user|model)|model turn|"
    r"last (?:message|role)[^.]{0,40}\buser\b"
)
_OPTIONAL = _codes(
    "max_completion_tokens max_tokens temperature top_p top_k seed stop stream_options "
    "include_obfuscation presence_penalty frequency_penalty min_p typical_p repeat_penalty "
    "repetition_penalty repeat_last_n dry_multiplier dry_base dry_allowed_length "
    "dry_penalty_last_n dry_sequence_breakers xtc_probability xtc_threshold random_seed"
)
"""Fields of a request that may be left out when a model refuses them: they are advice, or also
enforced here."""
_UNSUPPORTED = re.compile(
    r"unsupported (?:parameter|value|field)|(?:is|are) not supported|deprecated for this|"
    r"(?:unrecognized|unknown|unexpected) (?:request )?(?:argument|parameter|field|keyword|name)|"
    r"not permitted|extra_forbidden|cannot both be|may only be set"
)
"""No phrase that is also used for a value out of bounds: such a field must stay."""


_Meaning: TypeAlias = tuple[type[ProviderError], str]
"""An error class, and a message other than its usual one."""


def ended_too_early(provider: str, tail: bytes) -> ProviderError:
    """The error of a stream without its terminal event: the one in its *tail*, else Truncated."""
    failure = read_tail(tail)
    if failure is not None:
        return error_of(provider, failure)
    return Truncated(provider, "the stream ended before the answer was complete")


def unknown_reason(provider: str) -> ProviderError:
    """The error of an answer that ended for an unknown reason: it is not taken for a stop."""
    return ProviderError(provider, "ended the answer for a reason that is not known here")


def error_of(provider: str, failure: Failure) -> ProviderError:
    """The error class that *failure* belongs to: by its codes, then by its status."""
    kind, message = _by_code(failure) or _by_status(failure)
    if kind is ProviderRefused:
        return _refused(provider, failure, message)
    error = kind(provider, _with_facts(message or _MESSAGES[kind], failure))
    if isinstance(error, NotNow):
        error.retry_after_s = failure.retry_after_s
        error.may_retry = failure.may_retry is not False
    return error


def _by_code(failure: Failure) -> _Meaning | None:
    codes, status = failure.codes.keys(), failure.status
    has_prose = status in (None, 400, 403, 413, 422)
    for kind, known, prose in _ABOUT_REQUEST:
        if codes & known or (has_prose and prose.search(failure.prose)):
            return kind, ""
    may_retry = failure.may_retry and status not in (401, 402, 403, 429)
    if may_retry and not codes & (_AUTH | _RATE):
        return Overloaded, "asks for a retry"
    if codes & _AUTH:
        return AuthFailed, ""
    if codes & _RATE and status in (None, 429):
        return RateLimited, ""
    if status is None and codes & _OVERLOADED:
        return Overloaded, ""
    if status is None and codes & _REFUSED:
        return ProviderRefused, ""
    return None


def _by_status(failure: Failure) -> _Meaning:
    match failure.status:
        case None:
            return ProviderError, "ended the stream with an error"
        case 402:
            return BillingFailed, ""
        case 407:
            return NetworkFailed, "the proxy requires a password"
        case 403 if failure.prose.startswith("<"):
            # A web page comes from something in between, which says nothing about the key.
            return Overloaded, "was blocked before the request reached it"
        case 401 | 403:
            return AuthFailed, ""
        case 429:
            return RateLimited, ""
        case 404:
            return ProviderRefused, "has no such model or address: check model and base_url"
        case 408 | 409 | 424 | 425:
            return Overloaded, ""
        case status if status >= 500:
            return Overloaded, ""
        case status if status >= 400:
            return ProviderRefused, ""
        case status if status >= 300:
            return ProviderRefused, "redirects elsewhere: check base_url"
    return ProviderError, "did not send an answer"


def _refused(provider: str, failure: Failure, message: str) -> ProviderRefused:
    no_prefill = _NO_PREFILL.search(failure.prose) is not None
    unsupported = None if no_prefill else _unsupported_field(failure)
    if no_prefill:
        message = "the model does not continue an assistant's turn"
    elif unsupported is not None:
        message = f"the model does not take {unsupported}"
    message = _with_facts(message or _MESSAGES[ProviderRefused], failure)
    return ProviderRefused(provider, message, no_prefill=no_prefill, unsupported=unsupported)


def _unsupported_field(failure: Failure) -> str | None:
    """The optional field that is refused: one of ours, so its name may be shown."""
    is_prose = _UNSUPPORTED.search(failure.prose) is not None
    is_code = any("unsupported" in code for code in failure.codes)
    if failure.param in _OPTIONAL and (is_prose or is_code):
        return failure.param
    if not is_prose:
        return None
    named = (
        (failure.prose.find(field.lower()), field)
        for field in _OPTIONAL
        if re.search(rf"\b{field.lower()}\b", failure.prose)
    )
    return min(named, default=(0, None))[1]


def _with_facts(message: str, failure: Failure) -> str:
    """*message* with the status and the first known code, as the provider writes it."""
    facts = [f"status {failure.status}"] if failure.status else []
    facts += [
        code
        for word, code in failure.codes.items()
        if word in _KNOWN_CODES and re.fullmatch("[A-Za-z_-]+", code)
    ][:1]
    return f"{message} ({', '.join(facts)})" if facts else message
