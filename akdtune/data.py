"""Data sets as tensors on the training device: splits, noise, batches.

Every draw here (pool, validation split, noisy labels) is by the counter-based generator of `augmentation`, so it is
the same in every process, and the same for a sample whichever other samples are there.

Shapes: N images, B batch, C channels, H, W height and width (always equal).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from akdtune.augmentation import (
    Augmentation,
    Crops,
    Stream,
    augment,
    crops,
    epoch_order,
    random_order,
    random_words,
    variant_crops,
)
from akdtune.data_sources import DataSettings, LabelNoise, PixelNoise, Source
from akdtune.data_store import Images, Labels, Stored, cache_directory
from akdtune.errors import DataError
from akdtune.registry import lookup

__all__ = [
    "Augmentation",
    "Crops",
    "DataSet",
    "DataSettings",
    "LabelNoise",
    "PixelNoise",
    "Split",
    "Splits",
    "augment",
    "cache_directory",
    "crops",
    "epoch_order",
    "load",
    "missing_files",
    "variant_crops",
]

TrainOn = Literal["subset", "full"]
"""`subset`: the training pool minus validation; `full`: the whole pool."""


@dataclass(frozen=True)
class InputSpec:
    """What a network is built for: image channels, image height = width in pixels, number of classes."""

    channels: int
    size: int
    num_classes: int


@dataclass(frozen=True)
class Split:
    """Some images of a data set with their labels, on the device.

    Attributes:
        sample_ids_N: number of each image in the whole data set (training pool first, then test), int64; stable
            across splits, limits and seeds.
        labels_N: the right labels, int64.
        training_labels_N: the labels a student trains on, label noise included, int64.
    """

    sample_ids_N: Tensor
    labels_N: Tensor
    training_labels_N: Tensor
    _stored_NCHW: Tensor
    _rows_N: Tensor
    _augmentation: Augmentation
    _mean_C: Tensor
    _std_C: Tensor

    def __len__(self) -> int:
        return len(self.sample_ids_N)

    def images(self, positions_B: Tensor, crops: Crops | None = None) -> Tensor:
        """Normalised images [B, C, H, W], float32; whole ones without `crops` (one crop per position)."""
        rows_B = self._rows_N[positions_B]
        return augment(self._stored_NCHW, rows_B, crops, self._augmentation, self._mean_C, self._std_C)


@dataclass(frozen=True)
class Splits:
    """Who sees which data; `validation` is None where everything is trained on."""

    train: Split
    validation: Split | None
    test: Split


class DataSet:
    """A data set on a device.

    Attributes:
        name: the registered name.
        inputs: what its networks are built for.
        num_classes: K.
        augmentation: as set, or the data set's own.
        mean_C: channel means, on the scale 0..1.
        std_C: channel standard deviations, on the scale 0..1.
        content_hash: of the stored images and labels, before any split or noise.
        device: where images and labels are.
    """

    def __init__(self, settings: DataSettings, stored: Stored, device: torch.device) -> None:
        _, channels, size, _ = stored.train_images.shape
        source: type[Source] = lookup("data", settings.name)
        self.settings = settings
        self.name = settings.name
        self.device = device
        self.num_classes = stored.num_classes
        self.inputs = InputSpec(channels, size, stored.num_classes)
        self.augmentation = settings.augmentation or source.augmentation(size, channels)
        self.mean_C = _per_channel("mean", settings.mean or stored.mean, channels, device)
        self.std_C = _per_channel("std", settings.std or stored.std, channels, device)
        self.content_hash = stored.content_hash
        self._train_labels = np.array(stored.train_labels)
        self._test_labels = np.array(stored.test_labels)
        noise = settings.pixel_noise
        self._train_images_NCHW = torch.from_numpy(_add_noise(stored.train_images, noise, stream=0)).to(device)
        self._test_images_NCHW = torch.from_numpy(_add_noise(stored.test_images, noise, stream=1)).to(device)

    def split(self, train_on: TrainOn) -> Splits:
        """The data of roles that train on the pool minus validation (`subset`) or on all of the pool (`full`).

        Raises:
            DataError: for more validation images than there are, or none where trials are selected on them.
        """
        pool, validation = self._pool(), np.empty(0, dtype=np.int64)
        if train_on == "subset":
            validation = self._validation(pool)
        train = np.setdiff1d(pool, validation)
        noisy = add_label_noise(self._train_labels[train], train, self.num_classes, self.settings.label_noise)
        right, test = self._train_labels[validation], self._test_labels
        return Splits(
            train=self._train_split(train, noisy),
            validation=self._train_split(validation, right) if len(validation) else None,
            test=self._split(self._test_images_NCHW, test, np.arange(len(test)), len(self._train_labels), test),
        )

    def fingerprint(self, train_on: TrainOn) -> str:
        """Hash of everything about the data that a network trained on clean labels can depend on."""
        splits = self.split(train_on)
        ids = [None if part is None else part.sample_ids_N.tolist() for part in (splits.train, splits.validation)]
        facts: list[Any] = [self.content_hash, ids, self.mean_C.tolist(), self.std_C.tolist()]
        facts.append(self.augmentation.model_dump())
        facts.append(self.settings.pixel_noise.model_dump() if self.settings.pixel_noise else None)
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    def _pool(self) -> npt.NDArray[np.int64]:
        """The training pool after `limit_per_class`, as rising sample ids."""
        every, limit = np.arange(len(self._train_labels)), self.settings.limit_per_class
        if limit is None:
            return every
        counts = np.bincount(self._train_labels, minlength=self.num_classes)
        return _first_of_each_class(every, self._train_labels, np.minimum(counts, limit), self._seed, Stream.LIMIT)

    def _validation(self, pool: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        wanted, labels = self.settings.validation, self._train_labels[pool]
        if wanted == 0:
            raise DataError("data.validation is 0, but trials of a search are selected on validation images")
        counts = np.bincount(labels, minlength=self.num_classes)
        shares = _proportional(counts, wanted) if wanted < len(pool) else counts
        if (short := np.flatnonzero((counts > 0) & (shares >= counts))).size:
            raise DataError(
                f"data.validation is {wanted} of {len(pool)} images in the training pool, which leaves class "
                f"{short[0]} no training image"
            )
        return _first_of_each_class(pool, labels, shares, self._seed, Stream.VALIDATION)

    @property
    def _seed(self) -> int:
        return self.settings.split_seed

    def _train_split(self, rows: npt.NDArray[np.int64], training_labels: Labels) -> Split:
        return self._split(self._train_images_NCHW, self._train_labels, rows, 0, training_labels)

    def _split(
        self, images_NCHW: Tensor, labels: Labels, rows: npt.NDArray[np.int64], first_id: int, training_labels: Labels
    ) -> Split:
        ids_N, rows_N, labels_N, training_labels_N = (
            torch.from_numpy(array).to(self.device) for array in (rows + first_id, rows, labels[rows], training_labels)
        )
        pixels = (images_NCHW, rows_N, self.augmentation, self.mean_C, self.std_C)
        return Split(ids_N, labels_N, training_labels_N, *pixels)


def load(settings: DataSettings, device: torch.device) -> DataSet:
    """Reads a data set (downloading it where the settings allow) and puts it on a device.

    Raises:
        DataError: naming the file that is missing or wrong.
    """
    source: type[Source] = lookup("data", settings.name)
    return DataSet(settings, source.read(settings), device)


def missing_files(settings: DataSettings) -> list[str]:
    """What would have to be downloaded or found before `load` works, one readable entry each; downloads nothing."""
    source: type[Source] = lookup("data", settings.name)
    return source.missing(settings)


def add_label_noise(
    labels_N: Labels, sample_ids_N: npt.NDArray[np.int64], num_classes: int, noise: LabelNoise | None
) -> Labels:
    """Labels with round(fraction * N) of them replaced, each by one of the other classes, equally likely."""
    if noise is None or num_classes < 2:
        return labels_N
    order = random_order(noise.seed, 0, sample_ids_N, Stream.LABEL_NOISE)
    chosen = order[: round(noise.fraction * len(labels_N))]
    words = random_words(noise.seed, 0, sample_ids_N[chosen], Stream.LABEL_NOISE)
    step = 1 + (words[3] * np.uint64(num_classes - 1) >> np.uint64(32)).astype(np.int64)
    noisy = labels_N.copy()
    noisy[chosen] = (labels_N[chosen] + step) % num_classes
    return noisy


def _add_noise(images_NCHW: Images, noise: PixelNoise | None, stream: int) -> Images:
    """Images plus Gaussian noise, rounded and clipped to 0..255; the images themselves without noise."""
    if noise is None:
        return images_NCHW
    generator = np.random.Generator(np.random.Philox(key=[noise.seed % 2**64, stream]))
    noisy = np.empty(images_NCHW.shape, dtype=np.uint8)
    for start in range(0, len(images_NCHW), 1024):
        chunk = images_NCHW[start : start + 1024]
        drawn = generator.standard_normal(chunk.shape, dtype=np.float32) * np.float32(255 * noise.std)
        noisy[start : start + 1024] = np.clip(np.rint(chunk + drawn), 0, 255)
    return noisy


def _per_channel(key: str, values: list[float] | tuple[float, ...], channels: int, device: torch.device) -> Tensor:
    if len(values) != channels:
        raise DataError(f"data.{key} has {len(values)} numbers, the images have {channels} channels")
    return torch.tensor(values, dtype=torch.float32, device=device)


def _first_of_each_class(
    ids_N: npt.NDArray[np.int64], labels_N: Labels, counts_K: npt.NDArray[np.int64], seed: int, stream: Stream
) -> npt.NDArray[np.int64]:
    """The first `counts_K` ids of each class in random order, as rising ids."""
    order = random_order(seed, 0, ids_N, stream)
    by_class = order[np.argsort(labels_N[order], kind="stable")]
    classes = labels_N[by_class]
    starts_K = np.searchsorted(classes, np.arange(len(counts_K)))
    rank = np.arange(len(classes)) - starts_K[classes]
    chosen: npt.NDArray[np.int64] = np.sort(ids_N[by_class[rank < counts_K[classes]]])
    return chosen


def _proportional(counts_K: npt.NDArray[np.int64], wanted: int) -> npt.NDArray[np.int64]:
    """`wanted` images shared out in proportion to `counts_K`; what is left over goes to the largest remainders."""
    exact = wanted * counts_K
    shares: npt.NDArray[np.int64] = exact // counts_K.sum()
    left_over = wanted - int(shares.sum())
    shares[np.argsort(-(exact % counts_K.sum()), kind="stable")[:left_over]] += 1
    return shares
