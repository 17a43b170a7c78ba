"""The contract of a data set: which settings belong to it, which files are missing, and how to read what is there."""

from __future__ import annotations

from typing import ClassVar

import torch

from akdtune.data.rehearsal import Shape
from akdtune.data.row_sets import RowDataSet
from akdtune.data.store import Stored
from akdtune.data.streaming import Streamed
from akdtune.registry import Component, Kind
from akdtune.settings.data import Augmentation, DataSettings, RowDataSettings
from akdtune.signals import Spec, Takes


class Source(Component):
    """Contract of a data set.

    Class attributes:
        own_settings: those of `DataSettings` that only some data sets have and this one does.
        required_settings: own settings without which it cannot be read.
    """

    kind: ClassVar[Kind] = "data"
    takes: ClassVar[Takes] = "images"
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


class RowSource(Component):
    """Contract of a data set that holds no images.

    Class attributes:
        takes: what it holds, which is what task and networks must be made for.
        Settings: the whole section `data`, a subclass of `RowDataSettings`.
        own_settings, required_settings: as of `Source`.
        example: the section as one would write it, in one line of YAML.
    """

    kind: ClassVar[Kind] = "data"
    takes: ClassVar[Takes]
    Settings: ClassVar[type[RowDataSettings]] = RowDataSettings
    own_settings: ClassVar[frozenset[str]] = frozenset()
    required_settings: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[str]

    @classmethod
    def missing(cls, settings: RowDataSettings) -> list[str]:
        """What is not there, one readable entry each; nothing is downloaded."""
        return []

    @classmethod
    def class_count(cls, settings: RowDataSettings) -> int | None:
        """Number of classes where it is known without reading anything; None elsewhere."""
        return None

    @classmethod
    def spec(cls, settings: RowDataSettings) -> Spec:
        """What networks are built for, as far as it is known without reading anything: sizes are counted with it."""
        raise NotImplementedError

    @classmethod
    def load(cls, settings: RowDataSettings, device: torch.device) -> RowDataSet:
        """Reads or makes it, and puts it on a device; `settings.rehearsal` may ask for little of it.

        Raises:
            DataError: naming the file that is missing or wrong.
        """
        raise NotImplementedError
