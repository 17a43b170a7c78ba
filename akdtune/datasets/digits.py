"""scikit-learn's handwritten digits, the embedded data set."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
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
        """Reads scikit-learn's own copy, once, and without importing it, which takes more than a second."""

        def write(folder: Path) -> Mapping[str, Any]:
            values = _values()
            images = np.rint(values[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
            labels = values[:, -1].astype(np.int64)
            order = random_order(0, 0, np.arange(len(labels)), Stream.DIGITS_POOL)
            pool = np.sort(np.concatenate([order[labels[order] == k][: cls.pool_per_class] for k in range(10)]))
            for split, rows in (("train", pool), ("test", np.setdiff1d(np.arange(len(labels)), pool))):
                np.save(folder / f"{split}_images.npy", images[rows])
                np.save(folder / f"{split}_labels.npy", labels[rows])
            mean, std = channel_statistics(images[pool])
            return {"num_classes": 10, "mean": mean, "std": std}

        return stored([], {"name": "digits", "version": metadata.version("scikit-learn")}, write)


def _values() -> npt.NDArray[np.float64]:
    """64 pixels (0 to 16) and the label of every image, [1797, 65]."""
    package = find_spec("sklearn")
    for folder in package.submodule_search_locations or () if package else ():
        if (packed := Path(folder) / "datasets" / "data" / "digits.csv.gz").is_file():
            return np.loadtxt(packed, delimiter=",")
    from sklearn.datasets import load_digits  # late: more than a second; a version that keeps its file elsewhere

    pixels, labels = load_digits(return_X_y=True)
    values: npt.NDArray[np.float64] = np.column_stack([pixels, labels])
    return values
