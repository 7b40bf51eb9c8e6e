"""Policies about the answer: what makes it bad."""

from __future__ import annotations

from spillover.cloud_fallback.policy.observation import Observation
from spillover.cloud_fallback.policy.reason import Reason
from spillover.runtime.events import Finished
from spillover.runtime.request import JsonSchema


def leaks_template(observation: Observation) -> Reason | None:
    """The text contains control tokens of the chat template."""
    start = observation.signals.leaks.found_at
    return None if start is None else Reason(code="template_leak", keep_chars=start)


def may_leak(observation: Observation) -> bool:
    return observation.signals.leaks.is_open


def breaks_json(observation: Observation) -> Reason | None:
    """JSON was requested, but the text or the arguments of a tool call cannot become valid JSON."""
    signals = observation.signals
    start = signals.broken_at
    if start is not None:
        return Reason(code="schema", keep_chars=start)
    for call in signals.calls.values():
        if call.error_at is not None:
            return Reason(code="schema", keep_chars=0)
    return None


def repeats_itself(observation: Observation) -> Reason | None:
    """The answer is in a loop; the text before its second round is kept."""
    signals = observation.signals
    by_nature = signals.track is signals.code or signals.json is not None
    loop = signals.loops.find(signals.text_end, repeats_by_nature=by_nature)
    if loop is None:
        return None
    readings = {
        "period": float(loop.period),
        "n_tokens": float(loop.n_tokens),
        "copies": loop.copies,
    }
    return Reason(code="repetition", signals=readings, keep_chars=loop.keep_chars)


def in_wrong_script(observation: Observation) -> Reason | None:
    """The answer has switched to a script that the conversation does not use."""
    start = observation.signals.scripts.found_at
    if start is None:
        return None
    signals = {"foreign_letters": float(observation.settings.foreign_letters)}
    return Reason(code="wrong_script", signals=signals, keep_chars=start)


def refuses(observation: Observation) -> Reason | None:
    """The answer declines to answer; nothing of it is kept."""
    return Reason(code="refusal", keep_chars=0) if observation.signals.refusals.found else None


def may_refuse(observation: Observation) -> bool:
    return observation.signals.refusals.may_come


def is_unsure(observation: Observation) -> Reason | None:
    """P(wrong) is high enough for how much has been shown; the text from where doubt began is not
    kept."""
    p_wrong, held_from = observation.doubt.p_wrong, observation.held_from
    n_shown = observation.signals.n_chars if held_from is None else held_from
    threshold = observation.doubt.needed(n_shown)
    if p_wrong is None or p_wrong < threshold:
        return None
    signals = {"p_wrong": p_wrong, "threshold": threshold}
    return Reason(code="low_confidence", signals=signals, keep_chars=held_from)


def unsure_dwell(observation: Observation) -> float:
    """Consecutive windows that must agree; none suffice before the least number of tokens."""
    settings = observation.settings
    enough = observation.signals.track.n >= settings.least_tokens
    return settings.confidence_dwell if enough else float("inf")


def is_sure_again(observation: Observation) -> bool:
    p_wrong = observation.doubt.p_wrong
    return p_wrong is not None and p_wrong < observation.doubt.forget


def is_in_doubt(observation: Observation) -> bool:
    return observation.doubt.is_raised


def was_unsure(observation: Observation) -> Reason | None:
    """A short answer has ended before enough windows could be judged, P(wrong) is high, and the
    text in doubt was not sent."""
    if observation.held_from is None or not observation.settings.judges_short_answers:
        return None
    return is_unsure(observation)


def says_nothing(observation: Observation) -> Reason | None:
    """The answer has ended without any text, tool call or reasoning, and not at a stop string."""
    if observation.signals.has_reasoned or not _is_without_answer(observation):
        return None
    return Reason(code="empty", keep_chars=0)


def only_reasons(observation: Observation) -> Reason | None:
    """The answer has ended with its reasoning, whether the model ended that itself or its budget
    did. A reasoning that max_tokens cuts leaves nobody a token to answer with."""
    if not observation.signals.has_reasoned or not _is_without_answer(observation):
        return None
    return Reason(code="no_answer", keep_chars=0)


def _is_without_answer(observation: Observation) -> bool:
    signals = observation.signals
    if not observation.request.messages or not _ended_itself(observation.end):
        return False
    return not (signals.has_text or signals.calls)


def misses_json(observation: Observation) -> Reason | None:
    """The answer has ended and is not the requested JSON. Incomplete JSON can be continued; JSON
    that does not follow its schema must be rewritten."""
    signals, wanted = observation.signals, observation.request.response_format
    if not _ended_itself(observation.end):
        return None
    if any(not call.is_complete for call in signals.calls.values()):
        return Reason(code="schema", keep_chars=0)
    if signals.json is None or not signals.has_text:
        return None
    if not signals.json.is_complete:
        return Reason(code="schema", keep_chars=signals.broken_at)
    if isinstance(wanted, JsonSchema):
        from spillover.runtime.structured_output.conformance import follows  # loads a library

        if not follows("".join(signals.document), wanted.schema):
            return Reason(code="schema", keep_chars=0)
    return None


def _ended_itself(end: Finished | None) -> bool:
    """Whether the model ended its answer itself, rather than a limit or a stop string."""
    return end is not None and end.reason in ("stop", "tool_calls") and end.stop is None
