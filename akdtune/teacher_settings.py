"""Which networks teach, as settings, and as files that are ready to be loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from akdtune.data import TrainOn
from akdtune.recipe import Recipe
from akdtune.registry import NO_NETWORK, ComponentSettings, network_name

PRETRAINED = "pretrained"
"""As `checkpoint`: the weights that the network brings itself."""


class DistillationSettings(ComponentSettings):
    """How an `auto` teacher learns from the teachers in `distilled_from`.

    loss = (1 - weight) * CE + weight * temperature^2 * sum over teachers k of KL(p_k || p), at `temperature`

    The defaults are DGKD's. TAKD (one teacher) searched temperatures 1 to 20 and weights 0.05 to 1.

    Differs: KL is summed over the classes and averaged over the batch; both published codes divide by the number of
        classes as well, which makes their distillation weight K times smaller than it says.
    """

    temperature: PositiveFloat = Field(default=5.0, description="softmax temperature of both sides")
    weight: float = Field(
        default=1.0, ge=0, le=1, description="weight of the sum of KL terms; the cross-entropy has the rest"
    )
    drop: NonNegativeInt | None = Field(
        default=None,
        description="teachers left out of each batch at random; null: 1 of several (DGKD), 0 of one (TAKD)",
    )


# Without references to themselves, JSON schemas of settings stay finite.
_SomeTeachers = WithJsonSchema({"type": "array", "items": {"type": "object"}})


class TeacherSettings(Recipe):
    """Which network teaches, and how it comes to its weights."""

    network: str | dict[str, Any] = Field(
        description="a registered network, or {name: ..., its settings}; none: no teacher"
    )
    checkpoint: str = Field(
        "auto",
        description="auto: train once and re-use; pretrained: the network's own weights; else a file, ours or"
        " published",
    )
    seed: int = Field(0, description="of the weights, batches and crops")
    clean_validation: bool = Field(
        False, description="declares that an imported checkpoint has not seen our validation images"
    )
    distilled_from: Annotated[list[TeacherSettings], _SomeTeachers] = Field(
        [],
        description="teachers that this one is distilled from while it trains, each with settings like this one's, to"
        " any depth: the next larger one (TAKD) or all larger ones (DGKD)",
    )
    distillation: DistillationSettings = Field(
        DistillationSettings(), description="how it is distilled; only with distilled_from"
    )
    others: Annotated[list[TeacherSettings], _SomeTeachers] = Field(
        [], description="further teachers of the student beside this one (views: multi_teacher)"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> TeacherSettings:
        for key in ("distilled_from", "others"):
            for teacher in getattr(self, key):
                if teacher.absent:
                    raise ValueError(f"{key}: network {NO_NETWORK} is not a teacher")
                if teacher.others:
                    raise ValueError(f"{key}: only the study's main teacher has others")
        if self.absent and (self.others or self.distilled_from or self.checkpoint != "auto"):
            raise ValueError(f"network {NO_NETWORK} goes without others, distilled_from and checkpoint")
        if self.distilled_from and self.checkpoint != "auto":
            raise ValueError("distilled_from needs checkpoint: auto; an imported teacher is not trained")
        if not self.distilled_from and "distillation" in self.model_fields_set:
            raise ValueError("distillation has no effect without distilled_from")
        if self.distilled_from and self.dropped >= len(self.distilled_from):
            raise ValueError(f"distillation.drop {self.dropped} leaves none of {len(self.distilled_from)} teachers")
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what a plain teacher does not have, so that what was derived from its settings stays valid."""
        values: dict[str, Any] = handler(self)
        unused = [key for key in ("distilled_from", "others") if not getattr(self, key)]
        for key in (*unused, *(["distillation"] if "distilled_from" in unused else [])):
            values.pop(key, None)
        return values

    @property
    def absent(self) -> bool:
        """Whether there is no teacher."""
        return network_name(self.network) == NO_NETWORK

    @property
    def dropped(self) -> int:
        """Teachers left out of each batch while this one is distilled."""
        drop = self.distillation.drop
        return int(len(self.distilled_from) > 1) if drop is None else drop

    def saw_validation(self, train_on: TrainOn) -> bool:
        """Whether its weights, or those it is distilled from, may come from our validation images."""
        if self.checkpoint != "auto":
            return not self.clean_validation
        return train_on == "full" or any(one.saw_validation(train_on) for one in self.distilled_from)

    def with_paths(self, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], TeacherSettings]]:
        """This teacher and all that stand in its settings, at any depth, each with its key path below this one."""
        yield path, self
        for key in ("distilled_from", "others"):
            for index, teacher in enumerate(getattr(self, key)):
                yield from teacher.with_paths((*path, key, index))


@dataclass(frozen=True)
class TeacherFile:
    """A teacher that is ready to be loaded, with any further ones; plain JSON by `plain`, and back by the constructor.

    Attributes:
        path: the checkpoint; empty where there is no teacher.
        key: what an `auto` teacher is found by; empty for an imported one.
        weights_hash: of the weights themselves; `none` where there is no teacher.
        network: the `network` setting it belongs to.
        val_accuracy: percent; None where it has trained on the validation images or there are none.
        test_accuracy: percent.
        saw_validation: whether our validation images may have been among its training images, or those of a teacher
            it was distilled from, or those of any of the others.
        others: further teachers, in the order of the settings; given as such or as dicts.
    """

    path: str
    key: str
    weights_hash: str
    network: str | dict[str, Any]
    val_accuracy: float | None
    test_accuracy: float | None
    saw_validation: bool
    others: tuple[TeacherFile, ...] = ()

    def __post_init__(self) -> None:
        given: Sequence[TeacherFile | Mapping[str, Any]] = self.others
        others = tuple(one if isinstance(one, TeacherFile) else TeacherFile(**one) for one in given)
        object.__setattr__(self, "others", others)

    def plain(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return asdict(self) | {"others": [other.plain() for other in self.others]}

    @property
    def absent(self) -> bool:
        """Whether there is no teacher."""
        return network_name(self.network) == NO_NETWORK

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> TeacherFile:
        """The inverse of `plain`."""
        return cls(**plain)

    @property
    def identity(self) -> str:
        """One hash for the weights of all teachers, 16 hex digits (`none` without any); the main one's if alone."""
        if not self.others:
            return self.weights_hash
        hashes = [self.weights_hash, *(other.weights_hash for other in self.others)]
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]

    @classmethod
    def none(cls) -> TeacherFile:
        """What stands for no teacher."""
        return cls("", "", "none", NO_NETWORK, None, None, False)

    @classmethod
    def untrained(cls, settings: TeacherSettings) -> TeacherFile:
        """A stand-in without weights, for plans made before the teacher exists."""
        if settings.absent:
            return cls.none()
        # which images the weights will have seen matters to roles that train on a part of them
        seen, others = settings.saw_validation("subset"), tuple(cls.untrained(other) for other in settings.others)
        seen = seen or any(other.saw_validation for other in others)
        return cls("", "", "untrained", settings.network, None, None, seen, others)
