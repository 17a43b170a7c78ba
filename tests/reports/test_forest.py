"""The forest plot: its axis follows the intervals of each difference alone, arrows stand for what goes on beyond it."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.markers import CARETLEFT, CARETRIGHT

from akdtune.reports import figures
from akdtune.reports.figures import Bar


def drawn(
    bars: list[Bar], margin: float | None = 0.3, floor: float | None = None
) -> tuple[Any, list[tuple[float, float]], set[str]]:
    """The axis, the place (x, y) of every arrow, and the labels of the legend."""
    sheet = figures.forest(bars, title="study", xlabel="points", margin=margin, level=0.95, floor=floor)
    assert len(sheet.files["png"]) > 1000
    axis = sheet.figure.axes[0]
    arrows = [line for line in axis.lines if line.get_marker() in (CARETLEFT, CARETRIGHT)]
    places = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in arrows]
    return axis, places, {text.get_text() for text in sheet.figure.legends[0].get_texts()}


def bar(value: float, alone: float | None, family: float | None, **more: Any) -> Bar:
    def ends(reach: float | None) -> tuple[float | None, float | None]:
        return (None, None) if reach is None else (value - reach, value + reach)

    fields: dict[str, Any] = {"n": 5, "p": 0.5, "is_control": False, **more}
    return Bar(f"{value:+}", value, *ends(alone), *ends(family), **fields)


def test_the_axis_follows_the_intervals_of_each_alone() -> None:
    axis, arrows, labels = drawn([bar(-2.0, 1.0, 1.6), bar(0.5, 1.5, 40.0)])
    left, right = axis.get_xlim()
    assert -3.5 < left < -3.0
    assert 2.0 < right < 2.5
    assert sorted(arrows) == [(left, 0.0), (left, 1.0), (right, 1.0)]
    assert "goes on beyond the plot" in labels
    assert axis.lines[-1].get_xdata()[0] == 0.5, "the difference itself is drawn last"


def test_intervals_that_fit_have_no_arrow() -> None:
    _, arrows, labels = drawn([bar(-2.0, 1.0, 1.02), bar(0.5, 1.5, 1.52)])
    assert arrows == []
    assert "goes on beyond the plot" not in labels


def test_one_huge_interval_leaves_the_others_legible() -> None:
    """Of two seeds among others of five."""
    axis, arrows, _ = drawn([bar(-0.5, 0.8, 1.3), bar(0.2, 0.7, 1.2), bar(0.0, 0.6, 1.1), bar(4.0, 60.0, 300.0, n=2)])
    left, right = axis.get_xlim()
    assert right - left < 12
    assert left < -1.3
    assert right > 4.0
    # Both of its intervals, the simultaneous one first, go on at either side.
    assert sorted(x for x, y in arrows if y == 3.0) == [left, left, right, right]


@pytest.mark.parametrize("margin", [None, 0.3])
def test_differences_without_intervals_are_in_the_plot(margin: float | None) -> None:
    axis, arrows, _ = drawn([bar(-1.0, None, None, n=1, p=None), bar(0.0, None, None, n=1, p=None)], margin)
    left, right = axis.get_xlim()
    assert left < -1.0
    assert right > (margin or 0.0)
    assert arrows == []


def test_only_zeros() -> None:
    axis, arrows, _ = drawn([bar(0.0, 0.0, 0.0)], None)
    assert axis.get_xlim() == (-1.0, 1.0)
    assert arrows == []


def test_the_text_of_a_row_holds_the_whole_interval_and_the_mark() -> None:
    axis, _, _ = drawn([bar(-2.0, 1.0, 40.0, p=0.034, mark="†"), bar(0.5, 1.0, None)])
    texts = [text.get_text() for text in axis.figure.axes[1].get_yticklabels()]
    assert texts[0] == "difference [95 % simultaneous], n, Holm p"
    assert texts[2] == "+0.50 [−0.50, +1.50]   n = 5, by itself"
    assert texts[1] == "−2.00 [−42.00, +38.00]†   n = 5   p = .034"


def test_the_noise_floor_is_two_dotted_lines_in_the_plot() -> None:
    bars = [bar(-2.0, 1.0, 1.6), bar(0.5, 1.5, 2.0)]
    axis, _, labels = drawn(bars, floor=2.67)
    dotted = [float(line.get_xdata()[0]) for line in axis.lines if line.get_linestyle() == ":"]
    assert dotted == [-2.67, 2.67]
    left, right = axis.get_xlim()
    assert left < -2.67 and 2.67 < right
    assert "A/A noise floor, ±2.67" in labels
    axis, _, labels = drawn(bars, floor=40.0)
    assert axis.get_xlim() == drawn(bars)[0].get_xlim(), "one of two seeds would make the rest a line"
    assert "A/A noise floor, ±40.00, beyond the plot" in labels
    assert not any("A/A" in label for label in drawn(bars)[2])
