"""The calibration for models without their own, on prompts and models that were left out."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from spillover.cloud_fallback.policy.calibration import (
    MODEL_SIZE,
    Calibration,
    pooled_calibration,
    read_calibration,
)
from spillover.edge_server.calibration.fit import FITTED, name_hash
from tests.edge_server.calibration import pooled
from tests.edge_server.calibration.pooled import Answer

Pairs = list[tuple[Answer, Calibration]]


@pytest.fixture(scope="module")
def found() -> list[Answer]:
    return pooled.answers()


@pytest.fixture(scope="module")
def unseen_families(found: list[Answer]) -> Pairs:
    """Each answer of SmolLM2 with a calibration that has seen no prompt of its family."""

    def fold(answer: Answer) -> str:
        return str(name_hash(pooled.family(answer), "fold") % 4)

    pairs = zip(found, pooled.left_out(found, fold), strict=True)
    return [pair for pair in pairs if pooled.base_model(pair[0]) == "SmolLM2"]


def test_the_shipped_file_is_fitted_to_the_recorded_answers(found: list[Answer]) -> None:
    made, shipped = pooled.fitted(found), read_calibration(pooled.PATH)
    assert shipped is not None
    assert made.weights == pytest.approx(shipped.weights, abs=1e-3)
    assert made.bias == pytest.approx(shipped.bias, abs=1e-3), (
        "fit it anew: python -m tests.edge_server.calibration.pooled --write"
    )
    assert made.fitted_to == shipped.fitted_to


def test_a_larger_model_is_less_often_wrong_and_an_unknown_one_is_average() -> None:
    biases = []
    for n_params in (5_800_000, None, 134_515_008, 8_000_000_000):
        calibration = pooled_calibration(n_params)
        assert calibration is not None
        assert MODEL_SIZE not in calibration.features
        biases.append(calibration.bias)
    assert biases == sorted(biases, reverse=True)


@pytest.mark.parametrize("n_tokens", pooled.POSITIONS)
def test_p_wrong_means_what_it_says_at_each_position(unseen_families: Pairs, n_tokens: int) -> None:
    """Of families and prompts that were not fitted, whatever part of the answer is there."""
    auroc, error, n = pooled.quality_at(unseen_families, n_tokens)
    assert n > 300
    assert auroc > 0.58
    assert error < 0.15
    rows = [(a, c, pooled.row_at(a, n_tokens)) for a, c in unseen_families]
    p = [pooled.p_at(a, c, row) for a, c, row in rows if row is not None]
    wrong = [a.windows.wrong for a, _, row in rows if row is not None]
    assert abs(np.mean(p) - np.mean(wrong)) < 0.08


def test_it_ranks_the_answers_of_a_model_that_it_has_not_seen(found: list[Answer]) -> None:
    calibration = pooled.fitted([a for a in found if a.source.startswith("story")], FITTED)
    others = [(a, calibration) for a in found if pooled.base_model(a) == "SmolLM2"]
    auroc, _, _ = pooled.quality_at(others, 24)
    assert auroc > 0.6


def test_by_default_it_disturbs_few_right_answers(unseen_families: Pairs) -> None:
    some = unseen_families[::3]
    done = pooled.decided(some)
    assert done.n_wrong is not None
    assert done.wrong_caught is not None
    assert done.right_disturbed is not None
    assert done.right_disturbed < 0.15 * (done.n_answers - done.n_wrong)
    assert done.wrong_caught > 0.2 * done.n_wrong


def test_it_disturbs_few_right_answers_of_a_model_that_it_has_not_seen(
    found: list[Answer],
) -> None:
    """With P(wrong) far too high for the model, four of ten right answers used to be disturbed."""
    calibration = pooled.fitted([a for a in found if a.source.startswith("story")], FITTED)
    for source in ("SmolLM2 GGUF", "SmolLM2 ONNX"):
        done = pooled.decided([(a, calibration) for a in found if a.source == source])
        assert done.n_wrong is not None
        assert done.wrong_caught is not None
        assert done.right_disturbed is not None
        share_disturbed = done.right_disturbed / (done.n_answers - done.n_wrong)
        assert share_disturbed <= 0.1
        assert done.wrong_caught / done.n_wrong > share_disturbed


def test_the_prompts_are_four_hundred_in_families_and_templates() -> None:
    lines = pooled.PROMPTS.read_bytes().splitlines()
    ids = [msgspec.json.decode(line)["id"].split("/") for line in lines]
    assert len(ids) == 400
    assert len({family for family, _, _ in ids}) == 16
    assert len({(family, template) for family, template, _ in ids}) == 80
