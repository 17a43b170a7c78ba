"""The contract of a data set: which settings belong to it, which files are missing, and how to read what is there."""

from __future__ import annotations

from typing import ClassVar

from akdtune.data.rehearsal import Shape
from akdtune.data.store import Stored
from akdtune.data.streaming import Streamed
from akdtune.registry import Component, Kind
from akdtune.settings.data import Augmentation, DataSettings


class Source(Component):
    """Contract of a data set.

    Class attributes:
        own_settings: those of `DataSettings` that only some data sets have and this one does.
        required_settings: own settings without which it cannot be read.
    """

    kind: ClassVar[Kind] = "data"
    own_settings: ClassVar[frozenset[str]] = frozenset()
    required_settings: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        """The augmentation usual for this data set, for images of `size` pixels."""
        return Augmentation(pad=size // 8, flip=channels == 3)

    @classmethod
    def shape(cls, settings: DataSettings) -> Shape:
        """What is known of its images without reading them; a rehearsal makes up images of this shape."""
        guessed = ["channels"] if settings.mean is None else []
        guessed += [key for key in ("size", "num_classes") if getattr(settings, key) is None]
        channels = 3 if settings.mean is None else len(settings.mean)
        return Shape(channels, settings.size or 32, settings.num_classes or 10, tuple(guessed))

    @classmethod
    def missing(cls, settings: DataSettings) -> list[str]:
        """What is not there, one readable entry each; nothing is downloaded."""
        return []

    @classmethod
    def class_count(cls, settings: DataSettings) -> int | None:
        """Number of classes where it is known without reading images; None elsewhere."""
        return settings.num_classes

    @classmethod
    def read(cls, settings: DataSettings) -> Stored | Streamed:
        """The stored images and labels, or where they stay encoded.

        Raises:
            DataError: naming the file that is missing or wrong.
        """
        raise NotImplementedError
