"""The page that shows an evaluation, and the model that it recommends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from msgspec.structs import replace

from spillover.edge_server import cli
from spillover.quantize.evaluation.cost import Cost
from spillover.quantize.evaluation.evaluate import Candidate, Evaluation, Model
from spillover.quantize.evaluation.loss import Loss
from spillover.quantize.report.choice import pick, undominated
from spillover.quantize.report.labels import Box, place_labels
from spillover.quantize.report.page import page
from spillover.runtime.conversions.record import EngineRates


def candidate(name: str, megabytes: float, divergence: float, speed: float | None) -> Candidate:
    cost = None
    if speed is not None:
        rates = EngineRates(prefill=100.0, decode_1=speed, decode_4=2 * speed)
        cost = Cost(rss_bytes=10**8, rates=rates, was_disturbed=name == "worse")
    engine = "llama.cpp" if name.endswith(".gguf") else "ONNX Runtime"
    model = Model(path=name, engine=engine, size_bytes=int(megabytes * 1e6), cost=cost)
    loss = Loss(
        n_positions=1000,
        divergence=divergence,
        divergence_error=divergence / 50,
        divergence_median=divergence / 2,
        divergence_99=divergence * 9,
        divergence_most=divergence * 90,
        perplexity=10 * (1 + divergence),
        perplexity_of_reference=10.0,
        perplexity_ratio=1 + divergence,
        perplexity_ratio_error=0.01,
        same_top=0.9,
        same_top_error=0.01,
        rms_delta_p=0.02,
    )
    return Candidate(model=model, loss=loss)


def evaluation(*candidates: Candidate) -> Evaluation:
    return Evaluation(
        reference=Model(path="m-F16.gguf", engine="llama.cpp", size_bytes=10**8, cost=None),
        reference_digest="1",
        candidates=candidates,
        text="<text> & more",
        text_digest="2",
        n_ctx=512,
        n_chunks=4,
        device="a device",
        n_threads=2,
        libraries={"onnxruntime": "1.32.0", "llama-cpp-python": ""},
    )


SOME = (
    candidate("small.gguf", 40, 0.2, 30),
    candidate("middle.gguf", 60, 0.03, 20),
    candidate("worse", 62, 0.04, 19),
    candidate("large.gguf", 90, 0.001, 12),
)


def test_a_page_does_not_replace_what_it_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "losses.json"
    path.write_bytes(msgspec.json.encode(evaluation(*SOME)))
    assert cli.run(["quantize", "report", str(path), "--html", str(path)]) == 2
    assert "would replace" in capsys.readouterr().err
    assert (
        cli.run(["quantize", "report", str(path), "--html", str(tmp_path / "no" / "m.html")]) == 2
    )
    assert cli.run(["quantize", "report", str(path), "--max-divergence", "nan"]) == 2
    assert path.read_bytes() == msgspec.json.encode(evaluation(*SOME))


def test_a_point_is_dominated_by_one_that_is_nowhere_worse() -> None:
    assert undominated([1, 2, 2, 3], [3, 2, 2.5, 2]) == [True, True, False, False]
    assert undominated([1, 1], [2, 2]) == [True, True]


def test_the_pick_is_the_fastest_that_is_exact_enough() -> None:
    assert pick(SOME).name == "middle"
    assert pick(SOME, 0.001).name == "large"
    assert pick(SOME, 1.0).name == "small"


def test_of_models_that_are_about_as_fast_the_pick_loses_least() -> None:
    alike = [candidate("a", 5, 0.02, 100), candidate("b", 5, 0.01, 97), candidate("c", 5, 0, 80)]
    chosen = pick(alike)
    assert chosen.name == "b"
    assert "about alike" in chosen.reason


def test_without_speeds_the_pick_is_the_smallest_that_is_exact_enough() -> None:
    chosen = pick([candidate("a", 5, 0.01, None), candidate("b", 4, 0.02, None)])
    assert chosen.name == "b"
    assert "smallest" in chosen.reason


def test_when_none_is_exact_enough_the_pick_loses_least() -> None:
    chosen = pick(SOME, 0.0001)
    assert chosen.name == "large"
    assert "no candidate" in chosen.reason


def plots(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def classes(svg: ElementTree.Element, kind: str) -> list[str | None]:
    return [one.get("class") for one in svg.iter(f"{{http://www.w3.org/2000/svg}}{kind}")]


def test_the_page_plots_losses_against_size_and_speed_and_loads_nothing() -> None:
    html = page(evaluation(*SOME), pick(SOME))
    assert len(plots(html)) == 2
    for svg in plots(html):
        # Circles run in llama.cpp; the ring around one of them is the pick.
        assert sorted(map(str, classes(svg, "circle"))) == ["pick", "worth", "worth", "worth"]
        assert classes(svg, "rect") == ["dominated"]
        assert "middle (pick)" in [text.text for text in svg.iter() if text.text]
    assert "&lt;text&gt; &amp; more" in html
    assert not re.search(r"(src|href)\s*=|@import|url\(", html)


def test_what_one_plot_recommends_is_not_grey_in_the_table() -> None:
    large_but_fast = candidate("odd", 80, 0.05, 40)
    found = page(evaluation(*SOME, large_but_fast), pick(SOME))
    rows = dict(re.findall(r'<tr class="(\w*)"><td>(\w+)', found)[::-1])
    assert rows["dominated"] == "worse"
    assert '<tr class=""><td>odd' in found


def test_a_speed_that_other_programs_lowered_is_named() -> None:
    assert "was measured, of worse:" in page(evaluation(*SOME), pick(SOME))
    assert "Other programs" not in page(evaluation(*SOME[:2]), pick(SOME))


def test_only_one_of_two_models_of_one_name_is_the_pick() -> None:
    twins = [candidate(f"{folder}/m.gguf", 40, loss, 30) for folder, loss in (("a", 0.2), ("b", 0))]
    found = page(evaluation(*twins), pick(twins))
    assert found.count('<tr class="pick">') == 1
    assert all(classes(svg, "circle").count("pick") == 1 for svg in plots(found))


def test_each_plot_can_be_a_file_of_its_own(tmp_path: Path) -> None:
    one = written(tmp_path / "one.json", evaluation(*SOME))
    assert cli.run(["quantize", "report", one, "--svg", str(tmp_path)]) == 0
    for name in ("size", "speed"):
        root = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "--worth: #" in (tmp_path / f"{name}.svg").read_text("utf-8")


def test_labels_touch_neither_each_other_nor_points() -> None:
    marks = [Box.around(100 + 30 * (i % 4), 100 + 12 * (i // 4), 6) for i in range(12)]
    area = Box(left=0, top=0, right=600, bottom=400)
    names = [f"recipe-{i}" for i in range(12)]
    placed = place_labels(names, [i < 4 for i in range(12)], marks, area)
    boxes = [label.box for label in placed if label is not None]
    assert len(boxes) >= 4
    assert all(label is not None for label in placed[:4])
    for i, box in enumerate(boxes):
        assert area.holds(box)
        assert not any(box.touches(other) for other in [*boxes[:i], *marks])


@pytest.mark.parametrize("losses", [(0.0, 0.0), (0.1, 0.1), (-1e-9, 30.0)])
def test_points_that_coincide_or_lose_nothing_are_plotted(losses: tuple[float, float]) -> None:
    same = [candidate(str(i), 5, loss, None) for i, loss in enumerate(losses)]
    (svg,) = plots(page(evaluation(*same), pick(same)))
    numbers = [float(one.get("y") or 0) for one in svg.iter() if one.get("y")]
    assert all(0 <= number <= 420 for number in numbers)


def written(path: Path, found: Evaluation) -> str:
    path.write_bytes(msgspec.json.encode(found))
    return str(path)


def test_the_command_joins_evaluations_of_one_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = written(tmp_path / "one.json", evaluation(*SOME[:2]))
    two = written(tmp_path / "two.json", evaluation(*SOME[2:]))
    html = tmp_path / "both.html"
    assert cli.run(["quantize", "report", one, two, "--html", str(html)]) == 0
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in ("small", "middle", "worse", "large"))
    assert "Pick: middle, the fastest" in printed
    assert "large" in html.read_text("utf-8")


@pytest.mark.parametrize(
    "change", [{"n_ctx": 256}, {"text_digest": "3"}, {"reference_digest": "3"}]
)
def test_losses_on_another_text_or_of_another_reference_are_refused(
    change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = written(tmp_path / "one.json", evaluation(*SOME))
    two = written(tmp_path / "two.json", replace(evaluation(*SOME), **change))
    assert cli.run(["quantize", "report", one, two]) == 1
    assert "another reference" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"device": "another"}, {"n_threads": 4}])
def test_speeds_of_different_devices_are_left_out(
    change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = written(tmp_path / "one.json", evaluation(*SOME[:2]))
    two = written(tmp_path / "two.json", replace(evaluation(*SOME[2:]), **change))
    html = tmp_path / "both.html"
    assert cli.run(["quantize", "report", one, two, "--html", str(html)]) == 0
    printed = capsys.readouterr()
    assert "different devices" in printed.out
    assert "different devices" in printed.err
    assert "the smallest of those" in printed.out  # nothing is said of speed
    assert len(plots(html.read_text("utf-8"))) == 1


def test_speeds_are_those_of_the_device_that_measured_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unmeasured = replace(evaluation(candidate("a", 5, 0.01, None)), device="another", notes=("A.",))
    one = written(tmp_path / "one.json", unmeasured)
    two = written(tmp_path / "two.json", replace(evaluation(*SOME), notes=("A.", "B.")))
    assert cli.run(["quantize", "report", one, two]) == 0
    printed = capsys.readouterr().out
    assert "a device, 2 threads" in printed
    assert "another" not in printed
    assert "A. B." in printed


def test_what_is_no_evaluation_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "three.json").write_text('{"a": 1}')
    empty = written(tmp_path / "empty.json", evaluation())
    for files, reason in (
        ([str(tmp_path / "three.json")], "no evaluation"),
        ([empty], "no candidates"),
    ):
        assert cli.run(["quantize", "report", *files]) == 1
        assert reason in capsys.readouterr().err
