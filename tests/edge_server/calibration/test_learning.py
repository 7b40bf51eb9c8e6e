"""Labels, fits and measures: what calibrate is made of."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.policy.calibration import (
    SHIPPED,
    read_calibration,
)
from spillover.edge_server.calibration import fit, items, measures
from spillover.edge_server.calibration.fit import (
    FITTED,
    POOLED,
    NotEnough,
    Windows,
    calibrate,
    fit_windows,
)
from spillover.edge_server.calibration.items import Check, Item, is_right
from spillover.edge_server.calibration.report import (
    halves_of_families,
    measure,
    random_halves,
)
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.structured_output.conformance import follows


def answered(check: Check, answer: str, *, ended: bool = True) -> bool:
    return is_right(Item(prompt="?", check=check), answer, ended=ended)


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (Check(equals="Lima"), " lima. ", "Lima, Peru"),
        (Check(contains=("red", "Blue")), "blue and  RED", "red"),
        (Check(contains="a b"), "A\nb", "ab"),
        (Check(contains_any=("8", "eight")), "eight legs", "six legs"),
        (Check(not_contains="sorry"), "fine", "I am SORRY"),
        (Check(regex=r"\b12\b"), "it is 12.", "it is 112"),
        (Check(min_words=3), "one two three", "one two"),
        (Check(max_words=2), "one two", "one two three"),
        (
            Check(max_repeats=0),
            "A bear went home. A bear ate.",
            "The bear went home far away. " * 2,
        ),
        (Check(json_schema={"type": "array"}), "[1]", "{}"),
    ],
)
def test_checks_tell_right_from_wrong(check: Check, right: str, wrong: str) -> None:
    assert answered(check, right)
    assert not answered(check, wrong)
    assert not answered(msgspec.structs.replace(check, ends=True), right, ended=False)


def test_a_label_goes_before_a_check() -> None:
    item = Item(prompt="?", check=Check(contains="x"), label="right")
    assert is_right(item, "y", ended=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"}', "line 2: give a check or a label"),
        ('{"check": {"equals": "a"}}', "line 2: give either prompt or messages"),
        ('{"prompt": "a", "check": {"contians": "a"}}', "line 2: .*contians"),
        ('{"prompt": "a", "check": {"regex": "(?=a)"}}', "line 2: check.regex"),
        ("{", "line 2: "),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "label": "right"}\n' + line + "\n")
    with pytest.raises(InvalidRequest, match=message):
        items.read(path)


def test_schemas_are_followed_without_fetching_and_within_bounds() -> None:
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    assert follows('{"a": 1}', schema)
    assert not follows('{"a": "1"}', schema)
    assert not follows('{"a": 1', schema)
    assert follows(r'{"a": 1, "b": "\ud83d"}', schema)  # half a pair, as the grammar allows
    assert follows("1", {"$ref": "http://127.0.0.1:9/schema.json"})
    assert follows("1", {"$ref": "#"})
    assert follows("1", {"minimum": "a", "type": 5})
    assert follows('"' + "a" * 64 + '!"', {"pattern": "^(a+)+$"})
    hidden = {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "^((a+)+b|a+c)$"}
    assert follows(f'["{"a" * 64}c"]', {"items": hidden})  # it took forever
    for keyword in ("additionalProperties", "unevaluatedProperties"):
        named = {"patternProperties": {hidden["pattern"]: {}}, keyword: False}
        assert follows(f'{{"{"a" * 64}c": 1}}', named)  # so did these
    assert not follows('["a"]', {"items": {**hidden, "type": "integer"}})
    assert follows("0.5", {"minimum": 0, "exclusiveMinimum": True})  # it took true for 1
    assert not follows("0.5", {"exclusiveMinimum": 0.5})
    doubling = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    assert follows("1", {"$ref": "#/$defs/d0", "$defs": doubling | {"d40": {"type": "integer"}}})


@given(
    labels=st.lists(st.booleans(), min_size=2, max_size=40),
    scores=st.lists(st.integers(0, 5), min_size=40, max_size=40),
)
def test_auroc_counts_the_pairs_in_order(labels: list[bool], scores: list[int]) -> None:
    wrong = np.array(labels)
    p = np.array(scores[: len(labels)], float)
    pairs = [(a > b) + (a == b) / 2 for a in p[wrong] for b in p[~wrong]]
    expected = sum(pairs) / len(pairs) if pairs else None
    assert measures.auroc(wrong, p) == (expected if expected is None else pytest.approx(expected))


def test_measures_of_a_perfect_and_of_an_ignorant_judge() -> None:
    wrong = np.array([True, False] * 50)
    perfect = wrong.astype(float)
    assert measures.brier(wrong, perfect) == 0.0
    assert measures.calibration_error(wrong, perfect) == 0.0
    ignorant = np.full(100, 0.5)
    assert measures.brier(wrong, ignorant) == 0.25
    points = measures.curve(wrong, perfect, cloud_accuracy=0.8)
    assert [round(p.handoff_rate, 3) for p in points] == [i / 10 for i in range(11)]
    assert points[0].right_in_all == 0.5
    assert points[5].right_of_kept == 1.0
    assert points[5].wrong_caught == 1.0
    assert points[5].right_disturbed == 0.0
    assert points[5].right_in_all == pytest.approx(0.9)
    assert points[10].right_in_all == pytest.approx(0.8)


def test_logistic_regression_finds_the_weights_it_was_made_with() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20_000, 3)) * [1.0, 5.0, 0.1] + [0.0, 3.0, -1.0]
    odds = 0.5 + x @ np.array([1.0, -0.4, 0.0])
    y = rng.random(20_000) < fit.sigmoid(odds)
    model = fit.fit_logistic(x, y, np.ones(20_000))
    assert model.weights / model.scales == pytest.approx([1.0, -0.4, 0.0], abs=0.3)
    assert np.corrcoef(model.log_odds(x), odds)[0, 1] > 0.999


def test_a_feature_that_separates_all_does_not_run_away() -> None:
    x = np.array([[0.0, 7.0]] * 20 + [[1.0, 7.0]] * 20)
    y = np.array([False] * 20 + [True] * 20)
    model = fit.fit_logistic(x, y, np.ones(40))
    assert np.all(np.isfinite(model.weights))
    p = fit.sigmoid(model.log_odds(x))
    assert p[:20].max() < 0.2 < 0.8 < p[20:].min()


def test_platt_corrects_odds_that_are_too_sure() -> None:
    rng = np.random.default_rng(2)
    odds = rng.normal(size=20_000) * 2
    y = rng.random(20_000) < fit.sigmoid(odds)
    slope, offset = fit.fit_platt(3.0 * odds + 1.0, y, np.ones(20_000))
    assert slope == pytest.approx(1 / 3, rel=0.1)
    assert offset == pytest.approx(-1 / 3, abs=0.1)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_isotonic_steps_rise(pairs: list[tuple[float, bool]]) -> None:
    p = np.array([pair[0] for pair in pairs])
    y = np.array([pair[1] for pair in pairs])
    steps = fit.fit_isotonic(p, y, np.ones(len(pairs)))
    assert [a for a, _ in steps] == sorted(a for a, _ in steps)
    after = [b for _, b in steps]
    assert all(low < high for low, high in pairwise(after))
    assert 0.0 <= after[0] <= after[-1] <= 1.0


def answers(n: int, *, n_groups: int = 8, seed: int = 0) -> list[Windows]:
    """Answers whose first feature tells, with some noise, whether they are wrong."""
    rng = random.Random(seed)
    found = []
    for i in range(n):
        wrong = rng.random() < 0.4
        rows = np.zeros((3, len(POOLED)))
        rows[:, 0] = [rng.gauss(-2.0 * wrong, 0.8) for _ in range(3)]
        found.append(Windows(id=f"a{i}", group=f"g{i % n_groups}", wrong=wrong, rows=rows, early=0))
    return found


def test_a_calibration_tells_wrong_answers_and_how_often_it_errs() -> None:
    train, test = random_halves(answers(400))
    assert {item.id for item in train}.isdisjoint(item.id for item in test)
    measured = measure(train, test)
    assert measured.auroc is not None
    assert measured.auroc > 0.9
    assert measured.calibration_error < 0.12
    fitted = calibrate(train, model="m", fingerprint="f", auroc=None)
    p = [fitted.p_wrong(dict(zip(POOLED, item.rows[-1], strict=True))) for item in test]
    wrong = np.array([item.wrong for item in test])
    online = measures.auroc(wrong, np.array(p, float))
    assert online == pytest.approx(measured.auroc, abs=1e-6)


def test_a_thousand_answers_give_an_isotonic_correction() -> None:
    found = answers(1_000)
    _, steps = fit_windows(found)
    assert len(steps) > 2
    fitted = calibrate(found, model="m", fingerprint="f", auroc=None)
    values = [
        fitted.p_wrong(dict.fromkeys(FITTED, 0.0) | {FITTED[0]: x}) or 0.0
        for x in np.linspace(-9, 5, 60)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.9
    assert values[-1] < 0.1


def test_labels_that_say_nothing_give_no_auroc_above_chance() -> None:
    found = answers(400)
    rng = random.Random(5)
    shuffled = [msgspec.structs.replace(item, wrong=rng.random() < 0.4) for item in found]
    measured = measure(*random_halves(shuffled))
    assert measured.auroc is not None
    assert abs(measured.auroc - 0.5) < 0.12


def test_few_items_have_no_auroc_and_fewer_have_no_fit() -> None:
    few = answers(60)
    measured = measure(few[:40], few[40:])
    assert measured.auroc is None
    assert measured.auroc_early is None
    with pytest.raises(NotEnough, match="10 of each"):
        fit_windows(answers(12))


def test_halves_of_families_share_no_family() -> None:
    found = answers(200)
    halves = halves_of_families(found)
    assert halves is not None
    first, second = ({item.group for item in half} for half in halves)
    assert first.isdisjoint(second)
    assert len(first | second) == 8
    assert halves_of_families(answers(200, n_groups=3)) is None


def test_the_shipped_calibration_is_whole() -> None:
    files = sorted(SHIPPED.glob("storyteller-*.json"))
    assert files
    for path in files:
        found = read_calibration(path)
        assert found is not None
        assert path.stem.endswith(f"-{found.fingerprint}")
        assert found.auroc is not None
        assert found.auroc >= 0.9
        assert set(found.features) <= set(FITTED)
