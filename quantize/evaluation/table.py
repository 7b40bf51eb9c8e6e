"""An evaluation as a table, and what its numbers depend on."""

from __future__ import annotations

import math

from spillover.quantize.evaluation.evaluate import Candidate, Evaluation, Model


def markdown(evaluation: Evaluation) -> str:
    """A row for the reference and one for each candidate, and below what they depend on."""
    lines = [heads(), ["---"] * len(heads()), *cells(evaluation)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", about(evaluation)])


def heads() -> list[str]:
    """The heads of the columns."""
    measures = ["KLD mean", "median", "99 %", "PPL", "PPL ratio", "same top", "RMS Δp"]
    costs = ["RSS MB", "prefill tok/s", "decode 1", "decode 4"]
    return ["model", "engine", "MB", *measures, *costs]


def cells(evaluation: Evaluation) -> list[list[str]]:
    """The texts of each row: the reference's and those of the candidates."""
    reference = evaluation.reference
    perplexity = evaluation.candidates[0].loss.perplexity_of_reference
    first = [*_facts(reference), "", "", "", f"{perplexity:.3f}", "", "", "", *_costs(reference)]
    return [first, *(_row(candidate) for candidate in evaluation.candidates)]


def about(evaluation: Evaluation) -> str:
    """What the numbers are, and what they depend on."""
    n_positions = evaluation.candidates[0].loss.n_positions
    libraries = ", ".join(f"{name} {is_}" for name, is_ in evaluation.libraries.items() if is_)
    facts = [
        "The first row is the reference. KLD: Kullback-Leibler divergence from it, in nats.",
        f"Text: {evaluation.text}, {n_positions} positions, the second halves of "
        f"{evaluation.n_chunks} chunks of {evaluation.n_ctx} tokens.",
        f"{evaluation.device}, {evaluation.n_threads} threads, {libraries}.",
        _disturbance(evaluation),
        *evaluation.notes,
    ]
    return " ".join(filter(None, facts))


def _disturbance(evaluation: Evaluation) -> str:
    models = [evaluation.reference, *(one.model for one in evaluation.candidates)]
    names = [one.name for one in models if one.cost is not None and one.cost.was_disturbed]
    if not names:
        return ""
    whose = "all models" if len(names) == len(models) else ", ".join(names)
    return f"Other programs took cores while speed was measured, of {whose}: it may be higher."


def _row(candidate: Candidate) -> list[str]:
    loss = candidate.loss
    return [
        *_facts(candidate.model),
        _with_error(loss.divergence, loss.divergence_error),
        f"{loss.divergence_median:.5f}",
        f"{loss.divergence_99:.4f}",
        f"{loss.perplexity:.3f}",
        _with_error(loss.perplexity_ratio, loss.perplexity_ratio_error),
        f"{loss.same_top:.1%}",
        f"{loss.rms_delta_p:.2%}",
        *_costs(candidate.model),
    ]


def _with_error(value: float, error: float) -> str:
    """With the digits that the error leaves."""
    n_digits = min(max(1 - math.floor(math.log10(error)), 0), 7) if error > 0 else 4
    return f"{value:.{n_digits}f} ± {error:.{n_digits}f}"


def _facts(model: Model) -> list[str]:
    return [model.name, model.engine, f"{model.size_bytes / 1e6:.1f}"]


def _costs(model: Model) -> list[str]:
    if model.cost is None:
        return [""] * 4
    rates = model.cost.rates
    speeds = (rates.prefill, rates.decode_1, rates.decode_4)
    return [f"{model.cost.rss_bytes / 1e6:.0f}", *(f"{speed:.0f}" for speed in speeds)]
