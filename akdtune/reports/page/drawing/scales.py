"""Axes' numbers: where a value lies, and which round ones are written beside the axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from akdtune.reports.text import MINUS

ROOM = 0.05
"""Of an axis beyond its lowest and highest value."""
ROUNDING = 1e-5
"""Values that differ by less of themselves are one value on an axis."""
LARGEST_POWER = 300.0
"""Of ten, that an axis reaches."""


@dataclass(frozen=True)
class Scale:
    """Numbers along an axis.

    Attributes:
        low, high: values at its ends.
        start, end: places of these in the drawing.
        log: whether equal ratios are equally long.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies; beyond the ends for one that is."""
        low, high, at = (log10(v) if v > 0 else -300.0 for v in (self.low, self.high, value)) if self.log else (
            self.low, self.high, value)  # fmt: skip
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values within the axis."""
        return _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high, about)


def scale_of(
    values: Iterable[float],
    start: float,
    end: float,
    *,
    log: bool = False,
    room: float = ROOM,
    keep: Sequence[float] = (),
) -> Scale:
    """An axis that holds all values that are finite, and those to `keep`, with room beside them."""
    held = [value for value in (*values, *keep) if isfinite(value) and (value > 0 or not log)]
    low, high = (min(held), max(held)) if held else (0.0, 1.0)
    if log:
        powers = log10(low), log10(high)
        beside = room * (powers[1] - powers[0]) or 0.3
        ends = max(-LARGEST_POWER, powers[0] - beside), min(LARGEST_POWER, powers[1] + beside)
        return Scale(10.0 ** ends[0], 10.0 ** ends[1], start, end, True)
    span = high - low if high - low > ROUNDING * abs(high) else abs(high) * 0.1 or 1.0
    if not isfinite(span):
        low, high, span = low / 4, high / 4, high / 4 - low / 4
    return Scale(low - room * span, high + room * span, start, end)


def _ticks(low: float, high: float, about: int) -> list[float]:
    step = _round_step((high - low) / max(1, about))
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def _round_step(raw: float) -> float:
    power = 10.0 ** floor(log10(raw)) if raw > 0 else 1.0
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))


def _log_ticks(low: float, high: float) -> list[float]:
    decades = log10(high) - log10(low)
    factors = (1, 2, 5) if decades < 1.6 else (1, 3) if decades < 2.6 else (1,)
    every = max(1, ceil(decades / 6))
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    found = [factor * 10.0**power for power in powers if power % every == 0 for factor in factors]
    return [value for value in found if low <= value * (1 + 1e-9) and value <= high * (1 + 1e-9)] or [low, high]


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Labels with as many digits as tell the ticks apart."""
    if not ticks:
        return []
    largest = max(map(abs, ticks))
    if largest >= 1e5 or 0 < largest < 1e-3:
        return [f"{tick:.3g}".replace("-", MINUS) for tick in ticks]
    for digits in range(7):
        texts = [f"{tick:.{digits}f}" for tick in ticks]
        if all(abs(float(text) - tick) <= 1e-6 * (largest or 1) for text, tick in zip(texts, ticks, strict=True)):
            break
    return [text.replace("-", MINUS) for text in texts]


def short_number(value: float) -> str:
    """A value with four significant digits and a true minus."""
    return f"{value:.4g}".replace("-", MINUS)
