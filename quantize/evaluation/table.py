"""An evaluation as a Markdown table."""

from __future__ import annotations

from spillover.quantize.evaluation.evaluate import Candidate, Evaluation, Model

_HEAD = (
    "| model | engine | MB | KLD mean | median | 99 % | PPL | PPL ratio | same top | RMS Δp "
    "| RSS MB | prefill tok/s | decode 1 | decode 4 |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def markdown(evaluation: Evaluation) -> str:
    """A row for the reference and one for each candidate, and below what they depend on."""
    reference = evaluation.reference
    perplexity = evaluation.candidates[0].loss.perplexity_of_reference
    first = [*_facts(reference), "", "", "", f"{perplexity:.3f}", "", "", "", *_costs(reference)]
    rows = [first, *(_row(candidate) for candidate in evaluation.candidates)]
    return "\n".join([_HEAD, *(f"| {' | '.join(row)} |" for row in rows), "", about(evaluation)])


def about(evaluation: Evaluation) -> str:
    """What the numbers are, and what they depend on."""
    n_positions = evaluation.candidates[0].loss.n_positions
    libraries = ", ".join(f"{name} {is_}" for name, is_ in evaluation.libraries.items() if is_)
    return (
        f"The first row is the reference. KLD: Kullback-Leibler divergence from it, in nats. Text: "
        f"{evaluation.text}, {n_positions} positions, the second halves of "
        f"{evaluation.n_chunks} chunks of {evaluation.n_ctx} tokens. "
        f"{evaluation.device}, {evaluation.n_threads} threads, {libraries}."
    )


def _row(candidate: Candidate) -> list[str]:
    loss = candidate.loss
    return [
        *_facts(candidate.model),
        f"{loss.divergence:.5f} ± {loss.divergence_error:.5f}",
        f"{loss.divergence_median:.5f}",
        f"{loss.divergence_99:.4f}",
        f"{loss.perplexity:.3f}",
        f"{loss.perplexity_ratio:.4f} ± {loss.perplexity_ratio_error:.4f}",
        f"{loss.same_top:.1%}",
        f"{loss.rms_delta_p:.2%}",
        *_costs(candidate.model),
    ]


def _facts(model: Model) -> list[str]:
    return [model.name, model.engine, f"{model.size_bytes / 1e6:.1f}"]


def _costs(model: Model) -> list[str]:
    if model.cost is None:
        return [""] * 4
    rates = model.cost.rates
    speeds = (rates.prefill, rates.decode_1, rates.decode_4)
    return [f"{model.cost.rss_bytes / 1e6:.0f}", *(f"{speed:.0f}" for speed in speeds)]
