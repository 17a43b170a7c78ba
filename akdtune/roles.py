"""What trials are for, how they end, and which images they train on."""

from __future__ import annotations

from typing import Literal, get_args

Terminal = Literal["done", "pruned", "diverged", "failed"]
"""How a trial ends."""

TERMINAL: tuple[str, ...] = get_args(Terminal)
STATUSES = ("planned", "running", "interrupted", *TERMINAL)
REPORT_ROLES = ("confirm", "ablation", "control")
"""Roles that train on the full training set and read the test set, once, at their end."""

TrainOn = Literal["subset", "full"]
"""`subset`: the training pool minus validation; `full`: the whole pool."""
