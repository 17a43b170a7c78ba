"""A study's time budget: what its setting says in seconds, and how much of it the ledger says is spent."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from akdtune.events import Event, StudyFinished, StudyStarted

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*")


def seconds(value: float | str) -> float:
    """The seconds that a number, or a text such as `90m`, `2h` or `1.5 d`, stands for.

    Raises:
        ValueError: when it is neither, or nothing is left of it.
    """
    parts = _TEXT.fullmatch(value) if isinstance(value, str) else None
    found = float(parts[1]) * _UNITS[parts[2]] if parts else value if not isinstance(value, str) else math.nan
    if not found > 0 or math.isinf(found):
        raise ValueError(f"must be a number of seconds above 0, or text like 90m, 2h or 1d, got {value!r}")
    return found


def spent_s(events: Iterable[Event]) -> float:
    """Seconds in which a driver ran trials: from each `study_started` to the last event before the next one.

    What a killed driver did after its last event is not counted.

    Args:
        events: of the ledger, in order.
    """
    total, began, last = 0.0, math.nan, math.nan
    for event in events:
        if isinstance(event, StudyStarted):
            total += 0.0 if math.isnan(began) else max(0.0, last - began)
            began = event.time
        last = event.time
        if isinstance(event, StudyFinished) and not math.isnan(began):
            total += max(0.0, last - began)
            began = math.nan
    return total if math.isnan(began) else total + max(0.0, last - began)
