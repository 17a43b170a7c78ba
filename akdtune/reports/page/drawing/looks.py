"""How an arm looks in every figure of a page: a colour and a shape, the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from akdtune.reports.diversity.measured import arms_in_order
from akdtune.reports.page.drawing import svg

COLOURS, SHAPES, DASHES = 7, 7, 4
LEVELS = 8
"""Steps of the colours for numbers."""


@dataclass(frozen=True)
class Look:
    """Colour, shape of points and dashes of lines, each by its place among those of the style sheet."""

    colour: int
    shape: int
    dash: int

    @property
    def name(self) -> str:
        """The class of a group that has the colour."""
        return f"c{self.colour}"

    @property
    def line(self) -> str:
        """The class of a line in it."""
        return f"ln d{self.dash}"

    def key(self) -> Markup:
        """What stands before its name in a legend."""
        drawn = svg.group(self.name, svg.line(1, 7, 21, 7, self.line), svg.mark(11, 7, self.shape, look="mk"))
        return svg.element("svg", drawn, viewBox="0 0 22 14", width=22, height=14, aria_hidden="true", class_="key")


def look(place: int) -> Look:
    """The look of the arm, or of another thing, at this place; 49 differ in colour or shape."""
    return Look(place % COLOURS, (place + place // COLOURS) % SHAPES, place // COLOURS % DASHES)


def looks_of(arms: Iterable[str], cells: Iterable[str] = ()) -> dict[str, Look]:
    """Of every arm, in the order of the other figures of a study, and of the cells of its design behind them."""
    return {name: look(place) for place, name in enumerate(dict.fromkeys([*arms_in_order(arms), *cells]))}


def level_of(value: float, low: float, high: float) -> int:
    """Which step of the colours for numbers a value has between two ends."""
    share = 0.5 if high <= low else (value - low) / (high - low)
    return min(LEVELS - 1, max(0, int(share * LEVELS)))
