"""Loads matplotlib whatever MPLBACKEND says: our figures draw on canvases of their own and need no backend."""

from __future__ import annotations

import contextlib
import os
import sys


def load_matplotlib() -> None:
    """Imports matplotlib where nobody has; one that is loaded keeps its backend.

    Its import fails on a name of a backend that it does not know, and a shell often hands on a notebook's. The backend
    that is asked for is taken afterwards, as a notebook expects it, where it can be.
    """
    if "matplotlib" in sys.modules:
        return
    asked = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib as mpl  # late: reports without a figure do not wait for it
    finally:
        if asked is not None:
            os.environ["MPLBACKEND"] = asked
    if asked:
        with contextlib.suppress(ValueError):
            mpl.rcParams["backend"] = asked
