"""The figure that reports draw on, which a notebook shows as it is. Imported late: it loads matplotlib."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

NOTEBOOK_DPI = 90


class StyledFigure(Figure):
    """A matplotlib figure that is drawn in a style of its own, on top of what the process has set; without pyplot.

    Args:
        style: matplotlib's settings by name, for drawing.
        settings: of `matplotlib.figure.Figure`.
    """

    def __init__(self, style: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self.style = style
        FigureCanvasAgg(self)

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """As matplotlib's, in the figure's own style."""
        with mpl.rc_context(self.style):
            super().savefig(*args, **kwargs)

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=NOTEBOOK_DPI)
        return png.getvalue()
