"""A plot's frame: two axes with their round numbers, and what stands beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from akdtune.reports.page.drawing import svg
from akdtune.reports.page.drawing.scales import Scale, scale_of, tick_texts

PANEL = (360.0, 236.0)
"""Width and height of one of several plots beside each other; one stands in a phone's width."""
WIDE = (980.0, 300.0)
"""Of a plot that takes the page's width."""
TICK_LETTERS, LABEL_LETTERS = 12, 46


@dataclass(frozen=True)
class Margins:
    """Room around the axes in pixels."""

    left: float = 48.0
    right: float = 12.0
    top: float = 24.0
    bottom: float = 40.0


@dataclass
class Plot:
    """A plot that is being drawn: content goes between its grid and its edge.

    Attributes:
        name: what it shows, for readers that do not see it.
        x, y: its axes.
        title: above it, at the left.
        x_label, y_label: what the axes hold, with units; `y_label` stands above the axis.
        options: names along the horizontal axis instead of numbers, at 0, 1, ...
    """

    name: str
    x: Scale
    y: Scale
    size: tuple[float, float]
    margins: Margins
    x_label: str = ""
    y_label: str = ""
    title: str = ""
    options: Sequence[str] = ()
    whole: bool = False
    content: list[Markup] = field(default_factory=list)

    def add(self, *parts: Markup) -> None:
        """Draws further parts over what there is."""
        self.content += parts

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pair of values lies."""
        return self.x(x), self.y(y)

    def drawing(self, class_: str = "figure") -> Markup:
        """The whole plot."""
        width, height = self.size
        axes = {"x": [self.x.low, self.x.high, self.x.start, self.x.end, int(self.x.log)],
                "y": [self.y.low, self.y.high, self.y.start, self.y.end, int(self.y.log)]}  # fmt: skip
        parts = (*self._grid(), *self.content, *self._words())
        return svg.drawing(width, height, *parts, name=self.name, class_=class_, data_axes=json.dumps(axes))

    def _grid(self) -> Iterable[Markup]:
        ticks = self.y.ticks(max(2, int((self.y.start - self.y.end) / 38)))
        if self.y_label.endswith("%"):
            ticks = [tick for tick in ticks if tick <= 100]
        lines = [svg.line(self.x.start, self.y(tick), self.x.end, self.y(tick), "grid") for tick in ticks]
        texts = [
            svg.text(self.x.start - 6, self.y(tick) + 4, label, anchor="end")
            for tick, label in zip(ticks, tick_texts(ticks), strict=True)
        ]
        yield svg.group("ax", *lines, svg.line(self.x.start, self.y.start, self.x.end, self.y.start, "axis"), *texts)
        yield svg.group("ax", *(self._option_texts() if self.options else self._number_texts()))

    def _number_texts(self) -> Iterable[Markup]:
        ticks = self.x.ticks(max(2, int((self.x.end - self.x.start) / 70)))
        if self.whole:
            ticks = [tick for tick in ticks if tick == int(tick) and tick >= 1]
        for tick, label in zip(ticks, tick_texts(ticks), strict=True):
            yield svg.line(self.x(tick), self.y.start, self.x(tick), self.y.start + 4, "axis")
            yield svg.text(self.x(tick), self.y.start + 17, label, anchor="middle")

    def _option_texts(self) -> Iterable[Markup]:
        room = (self.x.end - self.x.start) / max(1, len(self.options))
        letters = max(3, int(room / 6.4))
        for place, option in enumerate(self.options):
            yield svg.text(self.x(place), self.y.start + 17, clipped(option, letters), anchor="middle")

    def _words(self) -> Iterable[Markup]:
        if self.title:
            yield svg.text(4, 14, clipped(self.title, int(self.size[0] / 6.6)), look="title")
        if self.y_label:
            yield svg.text(4, self.y.end - 8, self.y_label, look="label")
        if self.x_label:
            middle = (self.x.start + self.x.end) / 2
            shown = clipped(self.x_label, int(self.size[0] / 6.2), keep_end=True)
            yield svg.text(middle, self.y.start + 34, shown, anchor="middle", look="label")


def plot(
    name: str,
    x: Iterable[float],
    y: Iterable[float],
    *,
    size: tuple[float, float] = PANEL,
    margins: Margins | None = None,
    x_label: str = "",
    y_label: str = "",
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    options: Sequence[str] = (),
    whole: bool = False,
    keep_y: Sequence[float] = (),
    room_x: float = 0.03,
) -> Plot:
    """A plot whose axes hold these values.

    Args:
        name: what it shows, for readers that do not see it.
        x: values along the horizontal axis.
        y: along the vertical one.
        size: in pixels.
        margins: around the axes.
        x_label: below the horizontal axis.
        y_label: above the vertical one.
        title: above the plot.
        log_x: equal ratios are equally long on the horizontal axis.
        log_y: the same on the vertical one.
        options: names along the horizontal axis, whose values are their places.
        whole: only whole numbers from 1 on stand along the horizontal axis.
        keep_y: further values that the vertical axis holds.
        room_x: beside the values of the horizontal axis, as a share of it.
    """
    around = margins or Margins(top=24.0 + (16.0 if title and y_label else 0.0))
    width, height = size
    left, right = around.left, width - around.right
    across = scale_of(x, left, right, log=log_x, room=room_x)
    if options:
        across = Scale(-0.5, len(options) - 0.5, left, right)
    up = scale_of(y, height - around.bottom, around.top, log=log_y, keep=keep_y)
    return Plot(name, across, up, size, around, x_label, y_label, title, options, whole)


def clipped(words: str, letters: int, *, keep_end: bool = False) -> str:
    """A long text without its end, or without its beginning."""
    if len(words) <= letters:
        return words
    return "…" + words[1 - letters :] if keep_end else words[: letters - 1] + "…"
