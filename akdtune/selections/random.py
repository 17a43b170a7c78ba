"""Rows drawn at random: what training on fewer rows does, whichever they are.

Shapes: B rows of a batch, R kept rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, field_validator, model_validator
from typing_extensions import override

from akdtune.errors import AkdtuneError
from akdtune.registry import ComponentSettings, lookup, register, settings_given, typed
from akdtune.selections import SHARE, Selected, Selection, kept_of
from akdtune.signals import Batch, Signals

RANDOM = "random"


class RandomSettings(ComponentSettings):
    """Settings of `random`."""

    share: float | None = Field(
        None,
        gt=0,
        le=1,
        description=f"of the rows of a batch that are kept, at least one; {SHARE} where nothing is said",
    )
    of: dict[str, Any] | None = Field(
        None, description="another selection: as many rows as it would keep of the same batch; instead of share"
    )

    @field_validator("of", mode="before")
    @classmethod
    def _names_a_selection_that_chooses(cls, value: Any) -> Any:
        """The other selection with its defaults filled in."""
        if value is None:
            return None
        given = {"name": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
            raise ValueError(f"must name a selection, got {value!r}")
        name = str(given["name"])
        try:
            if name == RANDOM or not lookup("selections", name).selects:
                raise ValueError(f"must name a selection that chooses rows, got '{name}'")
            rest = {key: item for key, item in given.items() if key != "name"}
            return {"name": name, **settings_given(lookup("selections", name), rest).model_dump(mode="json")}
        except AkdtuneError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        given = isinstance(values, Mapping) and (values.get("share") is not None or values.get("of") is not None)
        return values if given or not isinstance(values, Mapping) else {**values, "share": SHARE}

    @model_validator(mode="after")
    def _one_of_both(self) -> RandomSettings:
        if self.share is not None and self.of is not None:
            raise ValueError("share and of both say how many rows are kept: give one of them")
        return self


@register(RANDOM)
class Random(Selection):
    """A share of each batch, drawn anew at random; or as many rows as another selection would keep of it.

    The control of every selection (`random_selection`): what is left of a difference is which rows were chosen.

    Example:
        >>> random = Random.alone(share=0.5)
        >>> student, batch = Signals.random(8), Batch.of(torch.arange(8))
        >>> rows = random.select(student, None, batch).rows_R
    """

    source = "akdtune"
    Settings = RandomSettings

    def __init__(self, settings: RandomSettings) -> None:
        super().__init__(settings)
        self.share = settings.share
        self._other: Selection | None = None
        if settings.of is not None:
            self._other = lookup("selections", settings.of["name"])(typed("selections", settings.of))
            self.capturable = self._other.capturable

    @override
    @classmethod
    def draws(cls, settings: ComponentSettings) -> bool:
        """The rows."""
        return True

    @override
    @classmethod
    def inside(cls, settings: ComponentSettings) -> Mapping[str, Any] | None:
        """The selection whose number is kept."""
        assert isinstance(settings, RandomSettings)
        return settings.of

    @override
    def select(self, student: Signals, teacher: Signals | None, batch: Batch) -> Selected:
        """Distinct rows, all sets of so many equally likely."""
        rows = len(batch.labels_B)
        if self._other is None:
            assert self.share is not None
            kept = kept_of(self.share, rows)
        else:
            kept = len(self._other.select(student, teacher, batch).rows_R)
        drawn_B = torch.randperm(rows, generator=batch.generator, device=batch.labels_B.device)
        return Selected(drawn_B[:kept].sort().values)
