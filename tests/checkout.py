"""Where things lie in the checkout, for tests in whatever folder."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOTS = ROOT / "tests" / "snapshots"
BESIDE = ROOT.parent / "shared"
"""Recorded data and data sets too big for the checkout; the tests that read them skip themselves without."""
