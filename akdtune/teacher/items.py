"""What the rows of a teacher's store are of, and how its network is asked about some: images in crops, windows of text.

A row of images is one image in one crop: image * crops per image + crop. A row of texts is a window, which holds what
is said about each of its tokens that are predicted, in their order; windows with fewer of them end in zeros.

Shapes: B rows of a store, A answers of a row at most, R answers of some rows, X numbers of an answer, N items of a
split, P rows of a computed batch.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from akdtune.data.crops import Crops, epoch_order, variant_crops
from akdtune.data.row_sets import RowSplit
from akdtune.data.splits import Split
from akdtune.data.windows import WindowSplit
from akdtune.settings.data import Augmentation
from akdtune.signals import Inputs, Tokens
from akdtune.teacher.cache_files import Rows

COMPUTE_BATCH = {"cpu": 64, "cuda": 256}
"""Rows of a computed batch. Small sizes take other kernels, with other last bits, and size 1 other ones again."""

COMPUTE_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens of a computed batch of windows."""


class Items(Protocol):
    """Contract of what a store's rows are of.

    Attributes:
        device: where networks are asked.
        count: how many rows there are, also of items that are not in the split.
        batch: rows that a network is asked about at a time, always.
        answers: A.
        variants: rows of an item of the split, one behind the other: crops of an image.
    """

    device: torch.device
    count: int
    batch: int
    answers: int
    variants: int

    def first(self) -> Rows:
        """A batch of different rows."""
        ...

    def inputs(self, rows_P: Tensor, layout: torch.memory_format) -> Inputs:
        """What a network is asked about some rows."""
        ...

    def kept(self, rows_B: Tensor, answers_RX: Tensor) -> Tensor:
        """What a network answers about some rows, as many numbers a row: [B, A * X]."""
        ...

    def answered(self, rows_B: Tensor, kept_BY: Tensor) -> Tensor:
        """The inverse: [R, X]."""
        ...

    def facts(self) -> dict[str, Any]:
        """What numbers depend on besides the network, as plain JSON."""
        ...

    def rows(self, positions_B: Tensor, crops_B: Crops | None) -> Tensor:
        """The rows of a training batch."""
        ...

    def places(self, positions_B: Tensor) -> Tensor:
        """Which items of the split a training batch is of, in its order."""
        ...

    def drawn(self, order_seed: int, epoch: int) -> tuple[Rows, Rows]:
        """The row of each item of the split in an epoch, and the items in their order, on the host."""
        ...

    def of_split(self) -> Rows:
        """Every row of the split, in the order of its tables."""
        ...


def items_of(split: RowSplit, augmentation: Augmentation) -> Items | None:
    """What the rows of a split's stores are of; None where they are none that a store could name."""
    if isinstance(split, WindowSplit):
        return TextWindows(split)
    return CroppedImages(split, augmentation) if isinstance(split, Split) and split.crops_only else None


class CroppedImages:
    """Images in their crops.

    Args:
        split: any split of the images.
        augmentation: what crops are drawn from.
    """

    answers = 1

    def __init__(self, split: Split, augmentation: Augmentation) -> None:
        self._split, self._augmentation = split, augmentation
        self.device = split.labels_N.device
        self.batch = COMPUTE_BATCH.get(self.device.type, 64)
        self.variants = augmentation.variants
        self.count = split.stored * self.variants

    def first(self) -> Rows:
        """A batch of different images in different crops."""
        index, variants = np.arange(self.batch), self.variants
        first: Rows = index % self._split.stored * variants + index * 7 % variants
        return first

    def inputs(self, rows_P: Tensor, layout: torch.memory_format) -> Tensor:
        """The images, cropped and normalised."""
        variants = self.variants
        crops_P = variant_crops(rows_P % variants, self._augmentation)
        return self._split.images_of_rows(rows_P // variants, crops_P).contiguous(memory_format=layout)

    def kept(self, rows_B: Tensor, answers_RX: Tensor) -> Tensor:
        """One answer a row."""
        return answers_RX

    def answered(self, rows_B: Tensor, kept_BY: Tensor) -> Tensor:
        """One answer a row."""
        return kept_BY.contiguous()

    def facts(self) -> dict[str, Any]:
        """Size, normalisation, crops."""
        size = self._split.images_of_rows(torch.zeros(1, dtype=torch.int64, device=self.device)).shape
        augmentation = self._augmentation
        return {
            "input": list(size[1:]),
            "normalisation": [part.tolist() for part in self._split.statistics],
            "crops": {"pad": augmentation.pad, "flip": augmentation.flip, "fill": 0},
        }

    def rows(self, positions_B: Tensor, crops_B: Crops | None) -> Tensor:
        """Of images in their crops."""
        assert crops_B is not None, "crops say which row it is"
        return self._split.rows_N[positions_B] * self.variants + crops_B.variant_N(self._augmentation)

    def places(self, positions_B: Tensor) -> Tensor:
        """The images."""
        return positions_B

    def drawn(self, order_seed: int, epoch: int) -> tuple[Rows, Rows]:
        """The row of each position's crop in an epoch, and the positions in their order."""
        positions_R, crops_N = self._split.drawn(order_seed, epoch)
        rows_N = self._split.rows_N * self.variants + crops_N.variant_N(self._augmentation)
        return rows_N.cpu().numpy(), positions_R.cpu().numpy()

    def of_split(self) -> Rows:
        """Every crop of each image, image by image."""
        rows_N = self._split.rows_N.cpu().numpy()
        rows: Rows = (rows_N[:, None] * self.variants + np.arange(self.variants)).reshape(-1)
        return rows


class TextWindows:
    """Windows of the pool or test set that a split is of.

    Args:
        split: any split of them.
    """

    variants = 1

    def __init__(self, split: WindowSplit) -> None:
        self._split = split
        self.device = split.labels_N.device
        windows = split.source
        self.count = len(windows.ids_WX)
        self.batch = max(1, COMPUTE_TOKENS.get(self.device.type, 1024) // windows.rows_WL.shape[1])
        counts_W = windows.rows_WL.sum(axis=1)
        self.answers = int(counts_W.max())
        self._full = bool((counts_W == self.answers).all())

    @cached_property
    def _source(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens and rows of every window, and how many rows each has, on the device."""
        windows = self._split.source
        ids_WL = torch.from_numpy(np.ascontiguousarray(windows.ids_WX[:, :-1])).to(self.device)
        rows_WL = torch.from_numpy(windows.rows_WL).to(self.device)
        return ids_WL, rows_WL, rows_WL.sum(dim=1)

    def first(self) -> Rows:
        """The first windows."""
        first: Rows = np.arange(self.batch) % self.count
        return first

    def inputs(self, rows_P: Tensor, layout: torch.memory_format) -> Tokens:
        """The windows."""
        ids_WL, rows_WL, _ = self._source
        return Tokens(ids_WL[rows_P], rows_WL[rows_P])

    def kept(self, rows_B: Tensor, answers_RX: Tensor) -> Tensor:
        """The answers of each window, then zeros."""
        if self._full:
            return answers_RX.reshape(len(rows_B), -1)
        kept_BAX = answers_RX.new_zeros(len(rows_B), self.answers, answers_RX.shape[1])
        kept_BAX[self._there(rows_B)] = answers_RX
        return kept_BAX.flatten(1)

    def answered(self, rows_B: Tensor, kept_BY: Tensor) -> Tensor:
        """The answers of each window."""
        kept_BAX = kept_BY.reshape(len(rows_B), self.answers, -1)
        return kept_BAX.flatten(0, 1).contiguous() if self._full else kept_BAX[self._there(rows_B)]

    def facts(self) -> dict[str, Any]:
        """Which windows, and how their answers lie."""
        length = self._split.ids_WL.shape[1]
        return {"windows": {"first": self._split.first_number, "length": length, "answers": self.answers}}

    def rows(self, positions_B: Tensor, crops_B: Crops | None) -> Tensor:
        """Of whole windows."""
        return self._places_N[self._split.windows_of(positions_B)]

    def places(self, positions_B: Tensor) -> Tensor:
        """The windows."""
        return self._split.windows_of(positions_B)

    def drawn(self, order_seed: int, epoch: int) -> tuple[Rows, Rows]:
        """The row of each window, which is always the same, and the windows in their order."""
        order_N = epoch_order(order_seed, epoch, self._split.numbers_W)
        return self._places_N.cpu().numpy(), order_N.cpu().numpy()

    def of_split(self) -> Rows:
        """The split's windows in their order."""
        rows: Rows = self._places_N.cpu().numpy()
        return rows

    @property
    def _places_N(self) -> Tensor:
        return self._split.numbers_W - self._split.first_number

    def _there(self, rows_B: Tensor) -> Tensor:
        """Which of the answers of a row there are, bool [B, A]."""
        _, _, counts_W = self._source
        return torch.arange(self.answers, device=self.device) < counts_W[rows_B][:, None]
