"""Typed settings of what a study keeps of each trial besides its rows: `record`. No trained number depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
)

from akdtune.registry import ComponentSettings


class AttentionImages(ComponentSettings):
    """Of how many images attention maps are kept, written out."""

    images: PositiveInt = Field(description="the first so many of the images that a trial is judged by")


def _written_as(value: Any) -> str:
    return "mapping" if isinstance(value, Mapping | AttentionImages) else "number"


class RecordSettings(ComponentSettings):
    """What is kept of each trial besides rows and state; changes no trained number, and may change at any time."""

    predictions: Literal["float32", "float16"] = Field(
        default="float32", description="numbers of a student's logits; float16: half the space, the same answers"
    )
    teacher: bool = Field(
        default=True, description="logits of every teacher on the judged images, once for each split (float16)"
    )
    views: bool = Field(default=False, description="log-probabilities of each view on the judged images (float16)")
    features: NonNegativeInt = Field(
        default=0, description="pooled features of student, views and teachers on so many judged images (float16)"
    )
    attention: Annotated[
        Annotated[NonNegativeInt, Tag("number")] | Annotated[AttentionImages, Tag("mapping")],
        Discriminator(_written_as),
    ] = Field(
        default=0, description="attention maps of student, views and teachers of so many judged images, or {images: N}"
    )
    augmented: bool = Field(
        default=False, description="logits on the judged images once more, augmented as in training, the same for all"
    )
    train: bool = Field(
        default=False, description="accuracy on plain training images at a trial's end (plain_train_accuracy)"
    )
    answers: Literal["auto"] | bool = Field(
        default="auto", description="logits of every answer of a network that gives several; auto: where it does"
    )

    @field_validator("attention")
    @classmethod
    def _as_a_number(cls, value: int | AttentionImages) -> int:
        return value.images if isinstance(value, AttentionImages) else value

    @property
    def attention_images(self) -> int:
        """Of how many judged images attention maps are kept."""
        return self.attention.images if isinstance(self.attention, AttentionImages) else self.attention

    @model_serializer(mode="wrap")
    def _without_defaults(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is as by default stands nowhere, so that studies that ask for nothing are written as ever."""
        held: dict[str, Any] = plain(self)
        fields = type(self).model_fields
        return {name: value for name, value in held.items() if value != fields[name].default}


def held_record(held: Mapping[str, Any] | None) -> RecordSettings:
    """The section as a lock or a request holds it: defaults where it says nothing, without what it alone knows."""
    known = RecordSettings.model_fields
    return RecordSettings(**{name: value for name, value in (held or {}).items() if name in known})
