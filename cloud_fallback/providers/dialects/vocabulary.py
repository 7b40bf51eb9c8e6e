"""The words by which providers say what has failed: error codes, and phrases in their prose.

Codes are in lower case without punctuation, so that "insufficient_quota", "InsufficientQuota" and
"INSUFFICIENT_QUOTA" are one.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BILLING = _words(
    "insufficientquota billingerror billinghardlimitreached billingnotactive insufficientbalance "
    "insufficientcredits paymentrequired contractspendlimitreached enforcedspendlimitreached "
    "linkedorganizationspendlimitreached linkedorganizationbillingunavailable organizationonhold "
    "budgetexceeded"
)
BILLING_PROSE = re.compile(r"credit balance is too low|insufficient balance")
CONTENT = _words(
    "contentfilter contentpolicyviolation responsibleaipolicyviolation moderationblocked "
    "datainspectionfailed contentblocked guardrailintervened"
)
CONTENT_PROSE = re.compile(
    r"content management policy|content filtering policy|blocked by (?:our )?content|"
    r"flagged (?:by|as|for)"
)
CONTEXT = _words(
    "contextlengthexceeded contextwindowexceeded exceedcontextsizeerror stringabovemaxlength "
    "modelcontextwindowexceeded"
)
CONTEXT_PROSE = re.compile(
    r"maximum context length|context (?:length|window|size)|prompt is too long|"
    r"input (?:is|was) too long|input token count|too many (?:input |total )?tokens|"
    r"exceeds? the (?:maximum|max|available)[^.]{0,40}(?:token|context)|"
    r"inputs?\W+tokens?[^.]{0,80}must (?:be|have)"
)
AUTH = _words(
    "authenticationerror permissionerror invalidapikey apikeyinvalid unauthenticated "
    "permissiondenied accessdenied accessdeniedexception unrecognizedclientexception "
    "expiredtokenexception invalidsignatureexception missingauthenticationtoken "
    "missingauthenticationtokenexception incompletesignature accountdeactivated "
    "unsupportedcountryregionterritory unauthorized forbidden optinrequired"
)
RATE = _words(
    "ratelimiterror ratelimitexceeded ratelimitreached ratelimit toomanyrequests "
    "toomanyrequestsexception resourceexhausted throttlingexception "
    "ramplimitexceeded servicequotaexceededexception tokens requests"
)
OVERLOADED = _words(
    "overloadederror overloaded servererror apierror internalerror internalservererror "
    "internalserverexception internal unavailable serviceunavailable serviceunavailableexception "
    "timeouterror modelstreamerrorexception modeltimeoutexception modelnotreadyexception "
    "modelerrorexception deadlineexceeded badgateway engineoverloaded aborted generation "
    "timeout"
)
REFUSED = _words(
    "invalidrequesterror badrequest badrequesterror validationexception validation "
    "invalidargument notfounderror notfound modelnotfound failedprecondition invalidprompt "
    "resourcenotfoundexception requesttoolarge unprocessableentity outofrange"
)
CODES = (
    BILLING
    | CONTENT
    | CONTEXT
    | AUTH
    | RATE
    | OVERLOADED
    | REFUSED
    | _words(
        "conflict deploymentnotfound requestforbidden unsupportedvalue unsupportedparameter "
        "operationnotsupported incompletegeneration cancelled"
    )
)
"""All that may be shown in a message."""

NO_PREFILL = re.compile(
    r"prefill|(?:must|should|needs? to) end with an? (?:user|model)|model turn|"
    r"last (?:message|role)[^.]{0,40}\buser\b"
)

OPTIONAL = _words(
    "max_completion_tokens max_tokens temperature top_p top_k seed stop stream_options "
    "include_obfuscation presence_penalty frequency_penalty min_p "
    "repetition_penalty random_seed"
)
"""Fields of a request that may be left out when a model refuses them: advice, and what is also
seen to here."""

UNSUPPORTED = re.compile(
    r"unsupported (?:parameter|value|field)|(?:is|are) not supported|deprecated for this|"
    r"(?:unrecognized|unknown|unexpected) (?:request )?(?:argument|parameter|field|keyword|name)|"
    r"not permitted|extra_forbidden|cannot both be|may only be set"
)
"""Nothing that also speaks of a value out of bounds: such a field must stay."""
