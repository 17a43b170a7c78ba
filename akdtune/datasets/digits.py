"""scikit-learn's handwritten digits, the embedded data set."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from akdtune.data.source import Source
from akdtune.data.store import Stored, channel_statistics, stored
from akdtune.randomness import Stream, random_order
from akdtune.registry import register
from akdtune.settings.data import Augmentation, DataSettings


@register("digits", kind="data")
class Digits(Source):
    """scikit-learn's 1,797 handwritten digits, 8x8, grey: 90 images a class are the training pool, the rest test."""

    source = "Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits; scikit-learn's copy"
    pool_per_class = 90

    @classmethod
    @override
    def augmentation(cls, size: int, channels: int) -> Augmentation:
        """One pixel of padding; mirrored digits are other signs."""
        return Augmentation(pad=1, flip=False)

    @classmethod
    @override
    def class_count(cls, settings: DataSettings) -> int:
        return 10

    @classmethod
    @override
    def read(cls, settings: DataSettings) -> Stored:
        """Reads scikit-learn's own copy, once: importing scikit-learn takes a second in every process."""

        def write(folder: Path) -> Mapping[str, Any]:
            from sklearn.datasets import load_digits  # late: a second in every process that reads digits again

            bunch = load_digits()
            images = np.rint(np.asarray(bunch.images)[:, None] * (255 / 16)).astype(np.uint8)
            labels = np.asarray(bunch.target).astype(np.int64)
            order = random_order(0, 0, np.arange(len(labels)), Stream.DIGITS_POOL)
            pool = np.sort(np.concatenate([order[labels[order] == k][: cls.pool_per_class] for k in range(10)]))
            for split, rows in (("train", pool), ("test", np.setdiff1d(np.arange(len(labels)), pool))):
                np.save(folder / f"{split}_images.npy", images[rows])
                np.save(folder / f"{split}_labels.npy", labels[rows])
            mean, std = channel_statistics(images[pool])
            return {"num_classes": 10, "mean": mean, "std": std}

        return stored([], {"name": "digits", "version": metadata.version("scikit-learn")}, write)
