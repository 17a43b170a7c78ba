"""Rows with a bar or a share each: importance of settings, and what arms cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from akdtune.reports.importance.figures import Share
from akdtune.reports.page.drawing import svg
from akdtune.reports.page.drawing.axes import clipped
from akdtune.reports.page.drawing.looks import Look
from akdtune.reports.page.drawing.scales import Scale, scale_of, tick_texts
from akdtune.reports.text import number

ROW, TOP, FOOT, LEFT = 30.0, 30.0, 42.0, 150.0
SIZE = 460.0


def shares(title: str, settings: Mapping[str, Mapping[str, Share]], evaluators: Sequence[str], *, name: str) -> Markup:
    """Importance of an arm's settings by evaluator, with intervals and what chance gives.

    Args:
        title: above it.
        settings: shares by evaluator, by setting, from top to bottom.
        evaluators: in the order of their colours.
        name: what it shows, for readers that do not see it.
    """
    bottom = TOP + ROW * len(settings)
    x = Scale(0, 1, LEFT, SIZE - 16)
    parts = [svg.text(4, 14, clipped(title, 64), look="title"), *_axis(x, bottom, "share of importance")]
    for place, (setting, of_setting) in enumerate(settings.items()):
        y = TOP + ROW * (place + 0.5)
        parts.append(svg.text(LEFT - 10, y + 4, clipped(setting, 22, keep_end=True), anchor="end", look="name"))
        for index, evaluator in enumerate(evaluators):
            if (share := of_setting.get(evaluator)) is not None:
                parts += _share(
                    x, y + (index - (len(evaluators) - 1) / 2) * 10, share, index, f"{setting}, {evaluator}"
                )
    return svg.drawing(SIZE, bottom + FOOT, *parts, name=name)


def _share(x: Scale, y: float, share: Share, index: int, what: str) -> Iterator[Markup]:
    said = f"{what}: {number(share.value)} [{number(share.low)}, {number(share.high)}], chance {number(share.chance)}"
    look = "mk" if share.value > share.chance else "mk hollow"
    yield svg.group(
        f"c{index}", svg.line(x(share.low), y, x(share.high), y, "ln thick half"),
        svg.line(x(share.chance), y - 4.5, x(share.chance), y + 4.5, "ln chance"),
        svg.mark(x(share.value), y, index, said, radius=3.6, look=look),
    )  # fmt: skip


def bars(rows: Sequence[tuple[str, float, str]], looks: Mapping[str, Look], *, name: str, x_label: str) -> Markup:
    """A bar a row: its name, its value, and the words beside it."""
    bottom = TOP - 14 + ROW * len(rows)
    x = scale_of([0.0, *(value for _, value, _ in rows)], LEFT, SIZE - 84, room=0.0)
    parts: list[Markup] = list(_axis(x, bottom, x_label, top=TOP - 14))
    for place, (label, value, words) in enumerate(rows):
        y = TOP - 14 + ROW * (place + 0.5)
        colour = looks[label].name if label in looks else "c0"
        parts += [
            svg.text(LEFT - 10, y + 4, clipped(label, 22), anchor="end", look="name"),
            svg.group(colour, svg.box(x(0), y - 8, x(value) - x(0), 16, "mk", f"{label}: {words}")),
            svg.text(x(value) + 6, y + 4, words),
        ]
    return svg.drawing(SIZE, bottom + FOOT, *parts, name=name)


def _axis(x: Scale, bottom: float, label: str, top: float = TOP) -> Iterator[Markup]:
    ticks = x.ticks(5)
    yield svg.group(
        "ax", *(svg.line(x(tick), top, x(tick), bottom, "grid") for tick in ticks),
        svg.line(x.start, bottom, x.end, bottom, "axis"),
        *(svg.text(x(tick), bottom + 16, said, anchor="middle")
          for tick, said in zip(ticks, tick_texts(ticks), strict=True)),
    )  # fmt: skip
    yield svg.text((x.start + x.end) / 2, bottom + 33, label, anchor="middle", look="label")
