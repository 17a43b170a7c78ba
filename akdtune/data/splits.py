"""Splits of a data set, and the batches of an epoch: what training loops read.

Shapes: N images, B batch, C channels, H, W height and width (always equal).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from akdtune.data.crops import Crops, augment, crops, epoch_order, normalised
from akdtune.data.image_ops import augmented, blanked
from akdtune.data.mixing import Mix, draw_mix
from akdtune.data.row_sets import Loaded, RowSplit
from akdtune.data.streaming import Look, Request
from akdtune.randomness import Draw
from akdtune.settings.data import Augmentation
from akdtune.signals import Inputs

PLAIN = Look(None, Draw(0, 0))

MADE_AT_ONCE_MIB = 2
"""Images of an epoch that take no more are cropped and normalised all at once: small batches cost by the operation."""


class ImageSource(Protocol):
    """Where the 8-bit images of a data set come from."""

    @property
    def device(self) -> torch.device:
        """Where batches arrive."""
        ...

    @property
    def stored(self) -> int:
        """How many images lie on the device; 0 where they are read batch by batch."""
        ...

    def plain(self, rows_B: Tensor) -> Tensor:
        """Whole images, uint8 [B, C, H, W]."""
        ...

    def held(self, rows_B: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 [N, C, H, W] on the device, and where in them the rows are; what is there is not copied."""
        ...

    def batches(self, requests: Sequence[Request]) -> Generator[list[Tensor], None, None]:
        """The looks of each request in turn, uint8 [B, C, H, W] each."""
        ...


class StoredImages:
    """Images that lie on the device, uint8 [N, C, H, W]."""

    def __init__(self, images_NCHW: Tensor) -> None:
        self.images_NCHW = images_NCHW

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.images_NCHW.device

    @property
    def stored(self) -> int:
        """All of them."""
        return len(self.images_NCHW)

    def plain(self, rows_B: Tensor) -> Tensor:
        """Whole images, uint8 [B, C, H, W]."""
        return self.images_NCHW.index_select(0, rows_B)

    def held(self, rows_B: Tensor) -> tuple[Tensor, Tensor]:
        """All images, and the rows."""
        return self.images_NCHW, rows_B

    def batches(self, requests: Sequence[Request]) -> Generator[list[Tensor], None, None]:
        """The looks of each request in turn, made one request at a time."""
        size = self.images_NCHW.shape[-1]
        for request in requests:
            rows_B = torch.from_numpy(request.rows_B).to(self.device, non_blocking=True)
            plain_BCHW = self.plain(rows_B)
            yield [
                plain_BCHW if look is None else augmented(plain_BCHW, request.sample_ids_B, draw, look, size)
                for look, draw in request.looks
            ]


@dataclass(frozen=True)
class Pixels:
    """How stored images become what a network sees.

    Attributes:
        images: where they come from.
        size: height = width in pixels.
        augmentation: of training images.
        strong: of the strong version of training images.
        mean_C, std_C: per channel, on the scale 0..1.
    """

    images: ImageSource
    size: int
    augmentation: Augmentation
    strong: Augmentation
    mean_C: Tensor
    std_C: Tensor

    def finished(
        self, images_BCHW: Tensor, ids_B: npt.NDArray[np.int64], draw: Draw, augmentation: Augmentation, mix: Mix | None
    ) -> Tensor:
        """Normalised images, blanked and mixed."""
        images_BCHW = normalised(images_BCHW, self.mean_C, self.std_C)
        images_BCHW = blanked(images_BCHW, ids_B, draw, augmentation)
        return images_BCHW if mix is None else mix.mixed(images_BCHW)


@dataclass(frozen=True)
class Split(RowSplit):
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
    _rows_N: Tensor
    pixels: Pixels

    @override
    def __len__(self) -> int:
        return len(self.sample_ids_N)

    @property
    @override
    def items(self) -> int:
        """How many images."""
        return len(self)

    @override
    def first(self, items: int) -> Split:
        """The first so many images of the split."""
        return self._of(slice(items))

    def chosen(self, positions_N: Tensor) -> Split:
        """The images at some positions, in their order."""
        return self._of(positions_N.to(self.sample_ids_N.device))

    def _of(self, few: slice | Tensor) -> Split:
        return replace(
            self,
            sample_ids_N=self.sample_ids_N[few],
            labels_N=self.labels_N[few],
            training_labels_N=self.training_labels_N[few],
            _rows_N=self._rows_N[few],
        )

    @property
    @override
    def always_same(self) -> bool:
        """No: images are augmented, as far as anyone asks."""
        return False

    @property
    @override
    def crops_only(self) -> bool:
        """Whether a training image is a function of sample, crop and flip alone, and its crops are given."""
        return self.pixels.images.stored > 0 and self.pixels.augmentation.crops_only

    @property
    def rows_N(self) -> Tensor:
        """Row of each image among all stored ones (of training or test, whichever the split is of), int64."""
        return self._rows_N

    @property
    def stored(self) -> int:
        """How many images lie on the device, those of other splits and left-out ones included; 0 if it streams."""
        return self.pixels.images.stored

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Channel means and standard deviations that images are normalised with, on the scale 0..1."""
        return self.pixels.mean_C, self.pixels.std_C

    def images(self, positions_B: Tensor, crops: Crops | None = None) -> Tensor:
        """Normalised images [B, C, H, W], float32; whole ones without `crops` (one crop per position)."""
        return self.images_of_rows(self._rows_N[positions_B], crops)

    def images_of_rows(self, rows_B: Tensor, crops: Crops | None = None) -> Tensor:
        """As `images`, by rows of all stored images, also of those that are not in this split."""
        pixels = self.pixels
        images_NCHW, places_B = pixels.images.held(rows_B)
        return augment(images_NCHW, places_B, crops, pixels.augmentation, pixels.mean_C, pixels.std_C)

    @override
    def sample(self, items: int) -> tuple[Tensor, Inputs]:
        """Positions and images."""
        positions_B = torch.arange(min(items, len(self)), device=self.labels_N.device)
        return positions_B, self.images(positions_B)

    @override
    def plain_batches(self, batch_size: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Positions and whole normalised images of the split in order; a set that streams is read ahead."""
        every = torch.arange(len(self), device=self.sample_ids_N.device)
        batches = list(torch.split(every, batch_size))
        pixels = self.pixels
        with contextlib.closing(pixels.images.batches(self._requests(batches, (PLAIN,)))) as read:
            for positions_B, (plain_BCHW,) in zip(batches, read, strict=True):
                yield positions_B, normalised(plain_BCHW, pixels.mean_C, pixels.std_C)

    def augmented_batches(self, seed: int, batch_size: int) -> Generator[Tensor, None, None]:
        """Normalised images of the split in order, each augmented once as training images are, without mixing.

        Args:
            seed: of all draws, which go by the sample; no epoch has the same ones.
            batch_size: images per batch.
        """
        every = torch.arange(len(self), device=self.sample_ids_N.device)
        batches = list(torch.split(every, batch_size))
        pixels, draw = self.pixels, Draw(seed, 0)
        requests = self._requests(batches, (Look(pixels.augmentation, draw),))
        with contextlib.closing(pixels.images.batches(requests)) as read:
            for request, (images_BCHW,) in zip(requests, read, strict=True):
                yield pixels.finished(images_BCHW, request.sample_ids_B, draw, pixels.augmentation, None)

    def drawn(self, order_seed: int, epoch: int) -> tuple[Tensor, Crops]:
        """The positions of one epoch in their order, and the crop of every position."""
        crops_N = crops(order_seed, epoch, self.sample_ids_N, self.pixels.augmentation)
        return epoch_order(order_seed, epoch, self.sample_ids_N), crops_N

    @override
    def epoch(
        self, order_seed: int, epoch: int, batch_size: int, *, images: bool = True, strong: bool = False
    ) -> Generator[Loaded, None, None]:
        """The batches of one epoch; a last batch of one image is left out.

        Closing the generator (`contextlib.closing`) ends the processes that decode a set that streams.

        Every draw is by (order_seed, epoch, sample id), Mixup's and CutMix's by (order_seed, epoch, batch).

        Args:
            order_seed: of order, crops and all other draws.
            epoch: counted from 1.
            batch_size: images per batch.
            images: whether to make images at all.
            strong: whether to make their strong version, too.
        """
        pixels, draw = self.pixels, Draw(order_seed, epoch)
        strong_draw = Draw(order_seed, epoch, view=1)
        positions_N = epoch_order(order_seed, epoch, self.sample_ids_N)
        # Batch statistics of one image do not exist.
        batches = [positions_B for positions_B in torch.split(positions_N, batch_size) if len(positions_B) > 1]
        cropped = self._cropped(order_seed, epoch, positions_N, batch_size, images) if self.crops_only else None
        looks = []
        if images and cropped is None:
            looks.append(Look(pixels.augmentation, draw))
        if strong:
            looks.append(Look(pixels.strong, strong_draw))
        requests = self._requests(batches, tuple(looks))
        with contextlib.closing(pixels.images.batches(requests if looks else [])) as read:
            for index, (positions_B, request) in enumerate(zip(batches, requests, strict=True)):
                made = iter(next(read) if looks else ())
                mix = draw_mix(draw, index, len(positions_B), pixels.augmentation, pixels.size)
                ids_B = request.sample_ids_B
                crops_B = images_BCHW = strong_BCHW = None
                if cropped is not None:
                    crops_B, images_BCHW = next(cropped)
                elif images:
                    images_BCHW = pixels.finished(next(made), ids_B, draw, pixels.augmentation, mix)
                if strong:
                    strong_BCHW = pixels.finished(next(made), ids_B, strong_draw, pixels.strong, mix)
                partner_B = None if mix is None else mix.partner_B.to(positions_B.device, non_blocking=True)
                share = 1.0 if mix is None else mix.share
                yield Loaded(
                    positions_B=positions_B,
                    crops_B=crops_B,
                    inputs=images_BCHW,
                    strong=strong_BCHW,
                    partner_B=partner_B,
                    share=share,
                )

    def _cropped(
        self, order_seed: int, epoch: int, positions_N: Tensor, batch_size: int, images: bool
    ) -> Iterator[tuple[Crops, Tensor | None]]:
        """The crops of each batch of an epoch and, if asked for, its images; small ones are views of the epoch's."""
        crops_N = crops(order_seed, epoch, self.sample_ids_N, self.pixels.augmentation)
        in_order_N = Crops(*(part_N[positions_N] for part_N in crops_N))
        size_mib = len(positions_N) * len(self.pixels.mean_C) * self.pixels.size**2 * 4 / 2**20
        at_once = images and size_mib <= MADE_AT_ONCE_MIB
        images_NCHW = self.images(positions_N, in_order_N) if at_once else None
        for start in range(0, len(positions_N), batch_size):
            batch = slice(start, start + batch_size)
            crops_B = Crops(*(part_N[batch] for part_N in in_order_N))
            if images_NCHW is not None:
                yield crops_B, images_NCHW[batch]
            else:
                yield crops_B, self.images(positions_N[batch], crops_B) if images else None

    def _requests(self, batches: Sequence[Tensor], looks: tuple[Look, ...]) -> list[Request]:
        if not batches:
            return []
        rows_N, ids_N = self._rows_N.cpu().numpy(), self.sample_ids_N.cpu().numpy()
        ends = np.cumsum([len(positions_B) for positions_B in batches])
        chosen = np.split(torch.cat(list(batches)).cpu().numpy(), ends[:-1])  # one copy from the device
        return [Request(rows_N[positions], ids_N[positions], looks) for positions in chosen]


def overlapping(batches: Iterable[Loaded]) -> Iterator[tuple[Loaded, int]]:
    """Each batch behind the images of the one before it, and how many those are."""
    last: Loaded | None = None
    for batch in batches:
        yield (batch, 0) if last is None else (_joined(last, batch), len(last.positions_B))
        last = batch


def _joined(before: Loaded, after: Loaded) -> Loaded:
    """Two batches as one. Mixed images cannot be joined: methods that ask for overlapping batches are refused then."""
    crops_B = None
    if before.crops_B is not None and after.crops_B is not None:
        crops_B = Crops(*(torch.cat(parts) for parts in zip(before.crops_B, after.crops_B, strict=True)))
    pairs = (before.inputs, after.inputs), (before.strong, after.strong)
    inputs, strong = (None if a is None or b is None else torch.cat([a, b]) for a, b in pairs)
    positions_B = torch.cat([before.positions_B, after.positions_B])
    return Loaded(
        positions_B=positions_B,
        crops_B=crops_B,
        inputs=inputs,
        strong=strong,
        partner_B=None,
        share=1.0,
    )
