"""What trials are for, how they end, and which images they train on."""

from __future__ import annotations

from typing import Literal

TERMINAL = ("done", "pruned", "diverged", "failed")
STATUSES = ("planned", "running", "interrupted", *TERMINAL)
REPORT_ROLES = ("confirm", "ablation", "control")
"""Roles that train on the full training set and read the test set, once, at their end."""

TrainOn = Literal["subset", "full"]
"""`subset`: the training pool minus validation; `full`: the whole pool."""
