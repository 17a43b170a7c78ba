"""A few images of a data set, or made-up ones of its shape: what a rehearsal trains on.

Shapes: N images, C channels, S side of the images.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from akdtune.data.decoding import Encoded
from akdtune.data.store import Labels, Stored, channel_statistics, content_hash
from akdtune.data.streaming import Streamed

LEAST_OF_A_CLASS = 2
"""Of the classes that are there at all: one to train on and one to validate on."""


class Shape(NamedTuple):
    """What is known of a data set without its files.

    Attributes:
        channels: of an image.
        size: its sides in pixels.
        num_classes: K.
        guessed: which of these the settings do not say.
    """

    channels: int
    size: int
    num_classes: int
    guessed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Some:
    """Some rows of encoded images."""

    encoded: Encoded
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, row: int) -> tuple[bytes | Path, str]:
        """As of the whole set."""
        return self.encoded.at(self.rows[row])


def some_of(stored: Stored | Streamed, images: int) -> Stored | Streamed:
    """The first images of each class, `images` in training and a quarter of that for testing."""
    train = _first(stored.train_labels, images)
    test = _first(stored.test_labels, _tested(images))
    train_labels, test_labels = stored.train_labels[train], stored.test_labels[test]
    if isinstance(stored, Stored):
        train_images, test_images = stored.train_images[train], stored.test_images[test]
        return replace(
            stored,
            train_images=train_images,
            train_labels=train_labels,
            test_images=test_images,
            test_labels=test_labels,
            content_hash=content_hash([train_images, train_labels, test_images, test_labels], stored.num_classes),
        )
    digest = hashlib.sha256(stored.content_hash.encode() + train.tobytes() + test.tobytes())
    return replace(
        stored,
        train=Some(stored.train, tuple(map(int, train))),
        train_labels=train_labels,
        test=Some(stored.test, tuple(map(int, test))),
        test_labels=test_labels,
        content_hash=digest.hexdigest()[:32],
    )


def made_up(shape: Shape, images: int) -> Stored:
    """Images that a network can tell apart: a coarse pattern for each class, under noise; always the same ones."""
    generator = np.random.Generator(np.random.Philox(key=[images, shape.num_classes]))
    train_labels, test_labels = (_labels(count, shape.num_classes) for count in (images, _tested(images)))
    coarse = generator.integers(40, 216, (int(train_labels.max()) + 1, shape.channels, 4, 4))
    places = np.arange(shape.size) * 4 // shape.size
    patterns = coarse[:, :, places][:, :, :, places]

    def drawn(labels: Labels) -> npt.NDArray[np.uint8]:
        noisy = patterns[labels] + generator.normal(0, 30, (len(labels), *patterns.shape[1:]))
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)

    train_images, test_images = drawn(train_labels), drawn(test_labels)
    mean, std = channel_statistics(train_images)
    return Stored(
        train_images,
        train_labels,
        test_images,
        test_labels,
        num_classes=shape.num_classes,
        mean=mean,
        std=std,
        content_hash=content_hash([train_images, train_labels, test_images, test_labels], shape.num_classes),
    )


def _tested(images: int) -> int:
    return max(LEAST_OF_A_CLASS, images // 4)


def _labels(count: int, num_classes: int) -> Labels:
    """Labels of `count` images, as many of each class that is there."""
    classes = max(1, min(num_classes, count // LEAST_OF_A_CLASS))
    return np.arange(count, dtype=np.int64) % classes


def _first(labels_N: Labels, count: int) -> npt.NDArray[np.int64]:
    """Rows of the first images of each class, at most `count`, rising; of few classes where there are too many."""
    order = np.argsort(labels_N, kind="stable")
    classes, starts = np.unique(labels_N[order], return_index=True)
    rank = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    kept = max(1, count // LEAST_OF_A_CLASS)
    among = np.isin(labels_N[order], classes[:kept])
    chosen = order[among][np.argsort(rank[among], kind="stable")][:count]
    rows: npt.NDArray[np.int64] = np.sort(chosen)
    return rows
