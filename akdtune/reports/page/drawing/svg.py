"""SVG out of elements: names of arms and settings are users' text, and every text and attribute is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import isfinite

from markupsafe import Markup, escape

Points = Sequence[tuple[float, float]]


def coordinate(value: float) -> str:
    """A place in a drawing with one digit, which is a twentieth of a line's width."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def element(name: str, *content: str, **attributes: str | float | None) -> Markup:
    """An element of a drawing.

    Args:
        name: of the element.
        content: texts, which are escaped, and markup.
        attributes: `stroke_width` is `stroke-width`, `class_` is `class`; None leaves one out.
    """
    # Plain strings of escaped parts: Markup's own formatting takes five times as long, and a page has many points.
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if not content:
        return Markup(f"<{name}{said}/>")
    return Markup(f"<{name}{said}>{joined(content)}</{name}>")


def _attribute(value: str | float) -> str:
    return coordinate(value) if isinstance(value, int | float) else escape(value)


def joined(parts: Iterable[str]) -> Markup:
    """Texts, which are escaped, and markup behind each other."""
    return Markup("".join([escape(part) for part in parts]))


def drawing(
    width: float, height: float, *content: str, name: str, class_: str = "figure", **attributes: str | None
) -> Markup:
    """A whole drawing that takes the width of its place.

    Args:
        width: of its own coordinates, in pixels at full size.
        height: the same.
        content: of the drawing.
        name: what it shows, for readers that do not see it.
        class_: for the style sheet.
        attributes: further ones.
    """
    return element(
        "svg", *content, viewBox=f"0 0 {coordinate(width)} {coordinate(height)}", width=width, height=height,
        role="img", aria_label=name, class_=class_, **attributes,
    )  # fmt: skip


def group(look: str, *content: str) -> Markup:
    """What shares a look; nothing where there is nothing."""
    return element("g", *content, class_=look) if content else Markup("")


def text(x: float, y: float, words: str, *, anchor: str | None = None, look: str | None = None) -> Markup:
    """A line of text; `anchor`: middle or end."""
    return element("text", words, x=x, y=y, text_anchor=anchor, class_=look)


def line(x1: float, y1: float, x2: float, y2: float, look: str) -> Markup:
    """A straight line."""
    return element("path", d=f"M{coordinate(x1)} {coordinate(y1)}L{coordinate(x2)} {coordinate(y2)}", class_=look)


def path(points: Points, look: str, said: str = "") -> Markup:
    """A line through points; those that are not finite break it. `said` is shown where it is pointed at."""
    strokes: list[str] = []
    pen = "M"
    for x, y in points:
        if isfinite(x) and isfinite(y):
            strokes.append(f"{pen}{coordinate(x)} {coordinate(y)}")
            pen = "L"
        else:
            pen = "M"
    return element("path", *_said(said), d="".join(strokes), class_=look) if strokes else Markup("")


def steps(points: Points, look: str) -> Markup:
    """A line that keeps its height until the next point."""
    corners = [
        corner
        for (x, y), (next_x, _) in zip(points, [*points[1:], points[-1]], strict=True)
        for corner in ((x, y), (next_x, y))
    ]
    return path(corners, look)


def box(x: float, y: float, width: float, height: float, look: str, said: str = "") -> Markup:
    """A filled rectangle."""
    return element("rect", *_said(said), x=x, y=y, width=max(0.0, width), height=max(0.0, height), class_=look)


_SHAPES = (
    "m-{r} 0a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0-{d} 0",
    "m-{r}-{r}h{d}v{d}h-{d}z",
    "m0-{r}l{r} {d}h-{d}z",
    "m0 {r}l-{r}-{d}h{d}z",
    "m-{t}-{r}h{k}v{k}h{k}v{k}h-{k}v{k}h-{k}v-{k}h-{k}v-{k}h{k}z",
    "m-{r}-{r}l{r} {t} {r}-{t}-{t} {r} {t} {r}-{r}-{t}-{r} {t} {t}-{r}z",
    "m0-{r}l{r} {r}-{r} {r}-{r}-{r}z",
)
"""Circle, square, triangles up and down, plus, cross, diamond, around a point: no two arms of a page share one with
the same colour, so that nobody needs to see the colours."""


def mark(x: float, y: float, shape: int = 0, said: str = "", *, radius: float = 3.4, look: str | None = None) -> Markup:
    """A point; `said` is shown where it is pointed at."""
    if not (isfinite(x) and isfinite(y)):
        return Markup("")
    shown = _shape(shape % len(_SHAPES), radius)
    return element("path", *_said(said), d=f"M{coordinate(x)} {coordinate(y)}{shown}", class_=look)


@lru_cache(maxsize=64)
def _shape(shape: int, radius: float) -> str:
    third = 2 * radius / 3
    numbers = {"r": radius, "d": 2 * radius, "k": third, "t": third / 2}
    return _SHAPES[shape].format(**{key: coordinate(value) for key, value in numbers.items()})


def _said(words: str) -> list[Markup]:
    return [element("title", words)] if words else []
