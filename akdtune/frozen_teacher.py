"""What frozen teachers say about training batches, kept in memory where that is cheaper.

Shapes: B batch, R rows of the table (image and crop), C feature width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from akdtune.data import Augmentation, Crops, Split, variant_crops
from akdtune.networks import Network
from akdtune.signals import Signals

TABLE_BATCH = 256
TABLE_LIMIT_MIB = 64


_shared: dict[str, list[Signals]] = {}
"""The tables of the last study that this process worked for."""


class FrozenTeacher:
    """What teachers say about training batches, computed once per image and crop where that is cheaper.

    A frozen teacher in eval mode is a pure function of image and crop. When there are fewer crops than epochs and the
    numbers of all teachers fit in memory, all are computed at the first call, in batches of one fixed size, so that an
    image and crop have the same numbers to the last bit whoever asks. Maps are never kept, and neither is what is said
    about strongly augmented images or others that no crop identifies: they come live.

    Args:
        network: the main teacher, in eval mode, on the device of the split.
        split: the training images; positions count its rows.
        augmentation: what the crops are drawn from.
        epochs: planned epochs, warm-up of view heads included.
        others: further teachers, like the main one.
        share_as: what the tables depend on, as a hash; trials of one process with the same hash compute them once.
            Empty: not shared.
    """

    def __init__(
        self,
        network: Network,
        split: Split,
        augmentation: Augmentation,
        epochs: int,
        others: Sequence[Network] = (),
        share_as: str = "",
    ) -> None:
        self.network = network
        self.others = tuple(others)
        self._split = split
        self._augmentation = augmentation
        width = sum(one.pooled_dim + len(one.classifier()[1]) for one in (network, *self.others))
        size_mib = len(split) * augmentation.variants * width * 4 / 2**20
        pays = split.crops_only and augmentation.variants < epochs
        self.keeps_table = pays and size_mib <= TABLE_LIMIT_MIB
        self._tables: list[Signals] | None = None
        self._share_as = share_as

    @torch.no_grad()
    def signals(
        self,
        positions_B: Tensor,
        images_BCHW: Tensor | None,
        crops_B: Crops | None,
        stages: bool = False,
        strong_BCHW: Tensor | None = None,
    ) -> Signals:
        """Logits and pooled feature of a batch by every teacher, and the main one's maps when asked; no gradient.

        Args:
            positions_B: rows of the split.
            images_BCHW: the same images, augmented and normalised; read (and needed) only where nothing is stored.
            crops_B: their crops; None where crops alone do not say what was done to the images.
            stages: whether all maps that the main teacher offers, and its classifier, are needed.
            strong_BCHW: the same images under the strong augmentation; None gives no signals of them.
        """
        stored: list[Signals] | None = None
        if self.keeps_table and crops_B is not None and not (stages and not self.others):
            rows_B = positions_B * self._augmentation.variants + crops_B.variant_N(self._augmentation)
            stored = [Signals(table.logits_BK[rows_B], table.pooled_BC[rows_B]) for table in self._kept()]
        if stored is None:
            found = self._live(images_BCHW, stages)
        else:
            main = self._main(images_BCHW, stages) if stages else stored[0]
            found = replace(main, others=tuple(stored[1:]))
        return found if strong_BCHW is None else replace(found, strong=self._live(strong_BCHW, stages))

    def _live(self, images_BCHW: Tensor | None, stages: bool) -> Signals:
        others = tuple(other(images_BCHW).detach() for other in self.others)
        return replace(self._main(images_BCHW, stages), others=others)

    def _main(self, images_BCHW: Tensor | None, stages: bool) -> Signals:
        found: Signals = self.network(images_BCHW, stages)
        return (replace(found, classifier=self.network.classifier()) if stages else found).detach()

    def _kept(self) -> list[Signals]:
        if self._tables is None and self._share_as:
            self._tables = _shared.get(self._share_as)
        if self._tables is None:
            self._tables = [self._compute(network) for network in (self.network, *self.others)]
            if self._share_as:
                _shared.clear()  # one study's at a time: a worker that goes on to another does not keep both
                _shared[self._share_as] = self._tables
        return self._tables

    def _compute(self, network: Network) -> Signals:
        """Signals of every image and crop, [R, K] and [R, C] with R = images times variants."""
        variants = self._augmentation.variants
        rows_R = torch.arange(len(self._split) * variants, device=self._split.labels_N.device)
        parts = []
        for start in range(0, len(rows_R), TABLE_BATCH):
            rows_B = (start + torch.arange(TABLE_BATCH, device=rows_R.device)) % len(rows_R)  # the last one wraps
            crops_B = variant_crops(rows_B % variants, self._augmentation)
            parts.append(network(self._split.images(rows_B // variants, crops_B)))
        logits_RK = torch.cat([part.logits_BK for part in parts])[: len(rows_R)]
        return Signals(logits_RK, torch.cat([part.pooled_BC for part in parts])[: len(rows_R)])
