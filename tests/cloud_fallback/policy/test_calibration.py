"""Calibrations: what they make of features, and how their files are found."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from spillover.cloud_fallback.policy.calibration import (
    find_calibration,
    fingerprint,
    write_calibration,
)
from tests.cloud_fallback.policy.calibrations import CARD, calibration


def changed(**changes: object) -> bytes:
    """The file of a calibration with other values, possible or not."""
    return msgspec.json.encode({**msgspec.to_builtins(calibration()), **changes})


def test_unknown_features_make_p_wrong_unknown() -> None:
    assert calibration().p_wrong({"mean_64": float("nan")}) is None
    assert calibration().p_wrong({}) is None
    assert calibration().p_wrong({"mean_64": -1e9}) == pytest.approx(1.0)


def test_a_calibration_is_found_by_the_weights_not_by_the_name(tmp_path: Path) -> None:
    assert find_calibration(fingerprint(CARD), tmp_path) is None
    path = write_calibration(calibration(), tmp_path)
    assert path.parent == tmp_path / "calibrations"
    renamed = msgspec.structs.replace(CARD, name="another", n_ctx=4_096)
    assert find_calibration(fingerprint(renamed), tmp_path) == calibration()
    requantized = msgspec.structs.replace(CARD, size_bytes=21)
    assert find_calibration(fingerprint(requantized), tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        changed(scales=(0.0,)),
        changed(weights=(1.0, 2.0)),
        changed(steps=((0.0, -1.0),)),
    ],
)
def test_a_damaged_calibration_is_set_aside(content: bytes, tmp_path: Path) -> None:
    path = write_calibration(calibration(), tmp_path)
    path.write_bytes(content)
    assert find_calibration(fingerprint(CARD), tmp_path) is None
    assert [file.name for file in path.parent.iterdir()] == [f"{path.name}.damaged"]


@pytest.mark.parametrize("content", [changed(version=99), changed(fingerprint="0" * 16)])
def test_a_calibration_of_another_model_is_skipped(content: bytes, tmp_path: Path) -> None:
    path = write_calibration(calibration(), tmp_path)
    path.write_bytes(content)
    assert find_calibration(fingerprint(CARD), tmp_path) is None
    assert path.read_bytes() == content
