"""Data sets as tensors on the training device: pool, validation split, imbalance, noise.

Every draw here (pool, validation split, imbalance, noisy labels) is by the counter-based generator, so it is the same
in every process, and the same for a sample whichever other samples are there.

Shapes: N images, B batch, C channels, H, W height and width (always equal).
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from typing import Any, ClassVar, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from akdtune import progress
from akdtune.data.rehearsal import made_up, some_of
from akdtune.data.row_sets import RowDataSet, Splits
from akdtune.data.source import RowSource, Source
from akdtune.data.splits import ImageSource, Pixels, Split, StoredImages
from akdtune.data.store import Images, Labels, Stored
from akdtune.data.streaming import EncodedPixels, Streamed, StreamedImages, worker_count
from akdtune.errors import DataError
from akdtune.randomness import Stream, random_order, random_words
from akdtune.registry import lookup
from akdtune.roles import TrainOn
from akdtune.settings.data import (
    WEAK,
    AnyDataSettings,
    AugmentationSettings,
    DataSettings,
    LabelNoise,
    PixelNoise,
    RowDataSettings,
)
from akdtune.signals import InputSpec

OF_THE_DATA = "data.augmentation"


class DataSet(RowDataSet):
    """A data set on a device.

    Attributes:
        name: the registered name.
        settings: of the section `data`.
        augmentation: of training images: as set, or the data set's own.
        augmented_by: key path of the setting that it follows from, for messages.
        strong: of their strong version: as set, or the published one of MLKD.
        streams: whether images stay encoded and are read batch by batch.
        mean_C: channel means, on the scale 0..1.
        std_C: channel standard deviations, on the scale 0..1.
        content_hash: of images and labels, before any split or noise (of a set that streams: see its source).
        classes: what the labels 0..K-1 stand for; None where the files do not say it.
        notes: sentences on what was left out of the files, or is odd in them.
        device: where images and labels are.
    """

    settings: DataSettings
    inputs: InputSpec
    called: ClassVar[str] = "images"

    def __init__(self, settings: DataSettings, stored: Stored | Streamed, device: torch.device) -> None:
        super().__init__(settings, device)
        self.num_classes = stored.num_classes
        self.streams = isinstance(stored, Streamed)
        train, test, channels, size = _sources(settings, stored, device)
        self.inputs = InputSpec(channels, size, stored.num_classes)
        source: type[Source] = lookup("data", settings.name)
        self._own = source.augmentation(size, channels)
        self.augmented_by = OF_THE_DATA
        self.augmentation = (settings.augmentation or WEAK).resolved(self._own, size, OF_THE_DATA)
        strong = settings.strong or AugmentationSettings(preset="strong")
        self.strong = strong.resolved(self._own, size, "data.strong")
        self.mean_C = _per_channel("mean", settings.mean or stored.mean, channels, device)
        self.std_C = _per_channel("std", settings.std or stored.std, channels, device)
        self.content_hash = stored.content_hash
        self.classes, self.notes = stored.classes, stored.notes
        self._train_labels = np.array(stored.train_labels)
        self._test_labels = np.array(stored.test_labels)
        self.train_pixels, self.test_pixels = (
            Pixels(images, size, self.augmentation, self.strong, self.mean_C, self.std_C) for images in (train, test)
        )

    @override
    def under(self, given: AugmentationSettings | None, key: str) -> DataSet:
        """The same images under another augmentation; the same object where that is no other.

        Args:
            given: what is set; None: what `data.augmentation` says, whichever this one is under.
            key: path of that setting, for messages.

        Raises:
            DataError: for a part of it that is larger than the images.
        """
        key = OF_THE_DATA if given is None else key
        whole = (given or self.settings.augmentation or WEAK).resolved(self._own, self.inputs.size, key)
        if whole == self.augmentation:
            return self
        other = copy.copy(self)
        other.augmentation, other.augmented_by = whole, key
        other.train_pixels, other.test_pixels = (
            replace(pixels, augmentation=whole) for pixels in (self.train_pixels, self.test_pixels)
        )
        return other

    @override
    def split(self, train_on: TrainOn) -> Splits[Split]:
        """The data of roles that train on the pool minus validation (`subset`) or on all of the pool (`full`).

        Raises:
            DataError: for more validation images than there are, or none where trials are selected on them.
        """
        pool, validation = self._pool(), np.empty(0, dtype=np.int64)
        if train_on == "subset":
            validation = self._validation(pool)
        train = self._thinned(np.setdiff1d(pool, validation))
        noisy = add_label_noise(self._train_labels[train], train, self.num_classes, self.settings.label_noise)
        right, test = self._train_labels[validation], self._test_labels
        return Splits(
            train=self._train_split(train, noisy),
            validation=self._train_split(validation, right) if len(validation) else None,
            test=self._split(self.test_pixels, test, np.arange(len(test)), len(self._train_labels), test),
        )

    @override
    def fingerprint(self, train_on: TrainOn) -> str:
        """Hash of everything about the data that a network trained on clean labels can depend on."""
        splits = self.split(train_on)
        ids = [None if part is None else part.sample_ids_N.tolist() for part in (splits.train, splits.validation)]
        facts: list[Any] = [self.content_hash, ids, self.mean_C.tolist(), self.std_C.tolist()]
        facts.append(self.augmentation.facts())
        facts.append(self.settings.pixel_noise.model_dump() if self.settings.pixel_noise else None)
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    @property
    @override
    def images_key(self) -> list[Any]:
        """Plain JSON that names the stored images to the last bit, pixel noise included."""
        noise = self.settings.pixel_noise
        drawn = None if noise is None else [noise.model_dump(), np.__version__]  # whose normal numbers they are
        return [self.content_hash, drawn]

    def _pool(self) -> npt.NDArray[np.int64]:
        """The training pool after `limit_per_class`, as rising sample ids."""
        every, limit = np.arange(len(self._train_labels)), self.settings.limit_per_class
        if limit is None:
            return every
        counts = np.bincount(self._train_labels, minlength=self.num_classes)
        return _first_of_each_class(every, self._train_labels, np.minimum(counts, limit), self._seed, Stream.LIMIT)

    def _validation(self, pool: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        asked, labels = self.settings.validation, self._train_labels[pool]
        if asked == 0:
            raise DataError("data.validation is 0, but trials of a search are selected on validation images")
        wanted = asked if isinstance(asked, int) else max(1, round(asked * len(pool)))
        counts = np.bincount(labels, minlength=self.num_classes)
        shares = proportional(counts, wanted) if wanted < len(pool) else counts
        if (short := np.flatnonzero((counts > 0) & (shares >= counts))).size:
            raise DataError(
                f"data.validation is {wanted} of {len(pool)} images in the training pool, which leaves class "
                f"{short[0]} no training image"
            )
        return _first_of_each_class(pool, labels, shares, self._seed, Stream.VALIDATION)

    def _thinned(self, train: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Training images after `imbalance` and then `fraction`, as rising sample ids."""
        factor, fraction = self.settings.imbalance, self.settings.fraction
        if factor is not None:
            counts = np.bincount(self._train_labels[train], minlength=self.num_classes)
            labels = self._train_labels[train]
            train = _first_of_each_class(train, labels, long_tail(counts, factor), self._seed, Stream.IMBALANCE)
        if fraction is not None:
            labels = self._train_labels[train]
            counts = np.bincount(labels, minlength=self.num_classes)
            shares = np.minimum(counts, np.maximum(1, np.floor(fraction * counts + 0.5).astype(np.int64)))
            train = _first_of_each_class(train, labels, shares, self._seed, Stream.FRACTION)
        return train

    @property
    def _seed(self) -> int:
        return self.settings.split_seed

    def _train_split(self, rows: npt.NDArray[np.int64], training_labels: Labels) -> Split:
        return self._split(self.train_pixels, self._train_labels, rows, 0, training_labels)

    def _split(
        self, pixels: Pixels, labels: Labels, rows: npt.NDArray[np.int64], first_id: int, training_labels: Labels
    ) -> Split:
        ids_N, rows_N, labels_N, training_labels_N = (
            torch.from_numpy(array).to(self.device) for array in (rows + first_id, rows, labels[rows], training_labels)
        )
        return Split(ids_N, labels_N, training_labels_N, rows_N, pixels)


@overload
def load_data(settings: DataSettings, device: torch.device) -> DataSet: ...


@overload
def load_data(settings: RowDataSettings, device: torch.device) -> RowDataSet: ...


@overload
def load_data(settings: AnyDataSettings, device: torch.device) -> RowDataSet: ...


def load_data(settings: AnyDataSettings, device: torch.device) -> RowDataSet:
    """Reads a data set (downloading it where the settings allow) and puts it on a device.

    Raises:
        DataError: naming the file that is missing or wrong.
    """
    if isinstance(settings, RowDataSettings):
        of_rows: type[RowSource] = lookup("data", settings.name)
        with progress.stage(f"reading the data set {settings.name}"):
            return of_rows.load(settings, device)
    source: type[Source] = lookup("data", settings.name)
    with progress.stage(f"reading the data set {settings.name}"):
        if settings.rehearsal is None:
            return DataSet(settings, source.read(settings), device)
        if source.missing(settings):
            return DataSet(settings, made_up(source.shape(settings), settings.rehearsal), device)
        return DataSet(settings, some_of(source.read(settings), settings.rehearsal), device)


def missing_files(settings: AnyDataSettings) -> list[str]:
    """What would have to be downloaded or found before `load` works, one readable entry each; downloads nothing."""
    if isinstance(settings, RowDataSettings):
        of_rows: type[RowSource] = lookup("data", settings.name)
        return of_rows.missing(settings)
    source: type[Source] = lookup("data", settings.name)
    return source.missing(settings)


def long_tail(counts_K: npt.NDArray[np.int64], factor: float) -> npt.NDArray[np.int64]:
    """Images to keep of each class: exponentially fewer from the first class to the last, at least one where any is.

    The first class keeps as many as the largest has (or all it has), the last 1 / factor of that.

    References:
        Cui et al., CVPR 2019, arXiv 1901.05555; Cao et al., NeurIPS 2019, arXiv 1906.07413 (rounded down, as there).
    """
    ranks = np.arange(len(counts_K)) / max(1, len(counts_K) - 1)
    wanted = np.floor(counts_K.max(initial=0) * factor**-ranks + 1e-9).astype(np.int64)  # 500 / 100 is 5, not 4.999...
    kept: npt.NDArray[np.int64] = np.minimum(counts_K, np.maximum(wanted, 1))
    return kept


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


def _sources(
    settings: DataSettings, stored: Stored | Streamed, device: torch.device
) -> tuple[ImageSource, ImageSource, int, int]:
    """Where training and test images come from, their channels, and their size in pixels."""
    if isinstance(stored, Streamed):
        if settings.pixel_noise is not None:
            raise DataError(
                "data.pixel_noise is drawn once per stored image, and this set streams (data.stream is "
                f"{settings.stream}; allowed with pixel_noise: never)"
            )
        workers = worker_count(settings.workers, device)
        train, test = (
            StreamedImages(EncodedPixels(encoded, stored.channels, stored.square, stored.exact), device, workers)
            for encoded in (stored.train, stored.test)
        )
        return train, test, stored.channels, stored.square.size
    noise = settings.pixel_noise
    kept = [
        StoredImages(torch.from_numpy(_add_noise(images, noise, stream)).to(device))
        for stream, images in enumerate((stored.train_images, stored.test_images))
    ]
    _, channels, size, _ = stored.train_images.shape
    return kept[0], kept[1], channels, size


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


def proportional(counts_K: npt.NDArray[np.int64], wanted: int) -> npt.NDArray[np.int64]:
    """`wanted` images shared out in proportion to `counts_K`; what is left over goes to the largest remainders."""
    exact = wanted * counts_K
    shares: npt.NDArray[np.int64] = exact // counts_K.sum()
    left_over = wanted - int(shares.sum())
    shares[np.argsort(-(exact % counts_K.sum()), kind="stable")[:left_over]] += 1
    return shares
