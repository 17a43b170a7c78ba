"""What a configuration that chooses rows is compared with: as many at random, and all of them in as many steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from akdtune.registry import lookup, typed
from akdtune.settings.trial import ALL_ROWS

RANDOM_ROWS, SAME_STEPS, SAME_ROWS = "random_selection", "step_matched", "row_matched"
"""Controls of a selection."""

NO_SELECTION = {"name": ALL_ROWS}

RANDOM = "random"
"""The selection that chooses nothing."""


def share_of(selection: Mapping[str, Any]) -> float | None:
    """The share of each batch that a selection keeps; None where it differs from batch to batch."""
    component = lookup("selections", selection["name"])
    settings = typed("selections", selection)
    inside = component.inside(settings)
    share: float | None = component.share_of(settings) if inside is None else share_of(inside)
    return share


def random_instead(selection: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The selection that draws as many rows of each batch at random; None where nothing chooses rows."""
    if selection is None or selection["name"] == RANDOM:
        return None
    share = share_of(selection)
    return {"name": RANDOM, **({"of": dict(selection)} if share is None else {"share": share})}


def chooses(selection: Mapping[str, Any] | None) -> bool:
    """Whether a selection leaves rows out, and not at random."""
    return selection is not None and random_instead(selection) is not None and share_of(selection) != 1


def beside_selection(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a configuration that chooses rows is to be compared with, by the control that makes it of a base."""
    plain = {section: values for section, values in settings.items() if section != "selection"}
    instead = random_instead(settings["selection"])
    assert instead is not None, "asked of configurations that choose rows"
    filled = typed("selections", instead).model_dump(mode="json")
    return {RANDOM_ROWS: {**plain, "selection": {"name": RANDOM, **filled}}, SAME_STEPS: plain}
