"""Which networks teach, how they come to their weights, and how what they say is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from typing_extensions import override

from akdtune.folders import cache_directory
from akdtune.registry import NO_NETWORK, ComponentSettings, network_name
from akdtune.roles import TrainOn
from akdtune.settings.checkpoint import Checkpoint, CheckpointFile, checkpoint_file
from akdtune.settings.data import AugmentationSettings, with_augmentation
from akdtune.settings.training import Recipe

Compute = Literal["fp32", "bf16"]
"""How frozen teachers are computed."""

RECIPE_SINCE = {"optimizer": "sgd", "schedule": "step"}
"""Settings of a teacher's training that earlier versions had not, with what these did: left out where they say so."""

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
    checkpoint: Checkpoint = Field(
        "auto",
        description="auto: train once and re-use; pretrained: the network's own weights; else a file, ours or"
        " published, or {path, key, strip} where it says not by itself which of its tensors are meant",
    )
    seed: int = Field(0, description="of the weights, batches and crops")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="how it is trained where it is trained here")
    schedule: Literal["step", "cosine"] = Field("step", description="step: at the milestones; cosine: to zero")
    augmentation: AugmentationSettings | None = Field(
        None,
        description="what it is trained on where it is trained here: weak, strong, or parts of one, given whole; null:"
        " as data.augmentation",
    )
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
        values = with_augmentation(handler(self), self.augmentation)
        unused = [key for key in ("distilled_from", "others") if not getattr(self, key)]
        unused += [key for key, as_before in RECIPE_SINCE.items() if getattr(self, key) == as_before]
        for key in (*unused, *(["distillation"] if "distilled_from" in unused else [])):
            values.pop(key, None)
        return values

    @override
    def learning_rate(self, epoch: int) -> float:
        return self.cosine_rate(epoch) if self.schedule == "cosine" else super().learning_rate(epoch)

    @property
    def absent(self) -> bool:
        """Whether there is no teacher."""
        return network_name(self.network) == NO_NETWORK

    @property
    def imported(self) -> CheckpointFile | None:
        """The file that the weights are read from; None where it is trained here or brings its own."""
        return None if self.checkpoint in ("auto", PRETRAINED) else checkpoint_file(self.checkpoint)

    @property
    def dropped(self) -> int:
        """Teachers left out of each batch while this one is distilled."""
        drop = self.distillation.drop
        return int(len(self.distilled_from) > 1) if drop is None else drop

    def saw_validation(self, train_on: TrainOn) -> bool:
        """Whether its weights, or those it is distilled from, may come from our validation images."""
        if self.checkpoint != "auto":
            return not self.clean_validation
        return train_on == "full" or any(teacher.saw_validation(train_on) for teacher in self.distilled_from)

    def with_paths(self, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], TeacherSettings]]:
        """This teacher and all that stand in its settings, at any depth, each with its key path below this one."""
        yield path, self
        for key in ("distilled_from", "others"):
            for index, teacher in enumerate(getattr(self, key)):
                yield from teacher.with_paths((*path, key, index))


class CacheSettings(ComponentSettings):
    """What frozen teachers say about each image and crop, kept on the node's disk and shared by all trials."""

    dtype: Literal["fp16", "fp32"] = Field(
        "fp16", description="precision that the teacher's numbers are rounded to, stored or not"
    )
    compute: Compute | None = Field(
        None,
        description="precision that frozen teachers are computed in while a student trains, whether what they say is"
        " stored or not; null: that of training.precision",
    )
    max_mib: NonNegativeInt | None = Field(
        16384, description="size of all stores of a node together; null: as much as the disk holds"
    )
    location: str | None = Field(
        None,
        min_length=1,
        description="folder on each node, may hold $VARIABLES of the node; null: teacher_cache in the cache folder",
    )
    seed_from: str | None = Field(
        None, min_length=1, description="shared location whose blocks a node copies when it has none of its own"
    )

    @classmethod
    def held(cls, plain: Mapping[str, Any]) -> CacheSettings:
        """Out of a lock or a request, of this version or an earlier one."""
        return cls(**cls.of_earlier(plain))

    @staticmethod
    def of_earlier(plain: Mapping[str, Any]) -> dict[str, Any]:
        """The same with what earlier versions, which say nothing of `compute`, did: they computed in float32."""
        return {"compute": "fp32", **plain}

    def of_trial(self, training: Mapping[str, Any]) -> CacheSettings:
        """The same with `compute` as it is for a trial, whose own `training` settings these are."""
        return self.model_copy(update={"compute": teacher_compute(self, training)})

    def folder(self) -> Path:
        """Where this node's stores lie."""
        return cache_location() if self.location is None else _expanded(self.location)

    def seed_folder(self) -> Path | None:
        """Where blocks are copied from."""
        return None if self.seed_from is None else _expanded(self.seed_from)


def teacher_compute(cache: CacheSettings | None, training: Mapping[str, Any]) -> Compute:
    """How a trial's frozen teachers are computed; without a cache as before there was one, in float32.

    Args:
        cache: of its study.
        training: its own settings.
    """
    if cache is None:
        return "fp32"
    followed: Compute = training.get("precision", "fp32")
    return cache.compute or followed


def cache_location() -> Path:
    """Where stores lie unless a study says otherwise."""
    return cache_directory() / "teacher_cache"


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()
