"""Numbers beside the axes of the page's plots."""

from __future__ import annotations

import re

import pytest

from akdtune.reports.page.drawing.axes import plot
from akdtune.reports.page.drawing.scales import scale_of, tick_texts


def test_values_that_differ_by_rounding_alone_have_ticks_that_can_be_told_apart() -> None:
    texts = tick_texts(scale_of([0.4, 0.4 + 3e-8, 0.4 - 1e-8], 100.0, 0.0).ticks())
    assert len(set(texts)) == len(texts) > 1


@pytest.mark.parametrize(("unit", "above"), [("%", False), ("points", True)])
def test_no_share_is_above_100_percent(unit: str, above: bool) -> None:
    drawn = plot("shares", [1.0, 40.0], [100.0, 100.0], y_label=f"gate open, {unit}").drawing()
    shown = [float(text) for text in re.findall(r'text-anchor="end"[^>]*>([\d.]+)<', str(drawn))]
    assert 100.0 in shown or above
    assert any(value > 100 for value in shown) is above
