"""What frozen teachers say about training batches, stored where that is cheaper: in memory, on disk, or not at all.

Shapes: B batch, R rows of the table (image and crop), C feature width, K classes, W numbers a row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from akdtune.columns import Column
from akdtune.data.crops import Crops, variant_crops
from akdtune.data.row_sets import RowSplit
from akdtune.data.splits import Split
from akdtune.networks import Network, signals_of
from akdtune.settings.data import Augmentation
from akdtune.settings.teacher import Compute
from akdtune.signals import Inputs, Signals
from akdtune.teacher.asked import Asked, asked
from akdtune.teacher.device_rows import DeviceRows, device_rows
from akdtune.teacher.items import items_of
from akdtune.teacher.rows import Caching, PlaceMatters, TeacherRows

TABLE_BATCH = 256
TABLE_LIMIT_MIB: float = 64
"""The numbers of all teachers of a trial are kept in memory up to this size."""

CACHE_COLUMNS = (
    Column(
        "teacher_cache_hit_rate", "share", "rows of the teacher's cache that were found, of those asked for in the"
        " epoch", teacher="needed",
    ),
    Column("teacher_cache_fill_rate", "share", "rows of the teacher's cache that are stored", teacher="needed"),
)  # fmt: skip

Table: TypeAlias = Signals | tuple[Tensor, Tensor | None]
"""What a teacher says about every image and crop: computed, or its parts out of the cache (`TeacherRows.parted`)."""

_shared: dict[str, list[Table]] = {}
"""The tables of the last study that this process worked for."""


def forget_tables() -> None:
    """Drops the tables that this process keeps: the next trial gathers or computes its own."""
    _shared.clear()


class FrozenTeacher:
    """What teachers say about training batches, computed once per image and crop where that is cheaper.

    A frozen teacher in eval mode is a pure function of image and crop. With `caching`, every row goes through the
    cache's precision and comes from the node's disk where any trial has computed it before. When there are fewer crops
    than epochs and the numbers of all teachers fit in memory, all are gathered at the first call, so that steps of a
    millisecond do not wait for look-ups; without `caching` these tables are float32 and each process computes its own.
    In both, rows are computed in batches of one fixed size, so that an image and crop have the same numbers to the last
    bit whoever asks. Maps are never kept, and neither is what is said about strongly augmented images or others that no
    crop identifies: they come live.

    Args:
        network: the main teacher, in eval mode, on the device of the split.
        split: the training images; positions count its rows.
        augmentation: what the crops are drawn from.
        epochs: planned epochs, warm-up of view heads included.
        others: further teachers, like the main one.
        share_as: what the tables depend on, as a hash; trials of one process with the same hash compute them once.
            Empty: not shared.
        caching: how the cache on disk is used; None: not at all.
        table_limit_mib: up to which size the numbers of all teachers are kept in memory.
        compute: how they are computed, stored or live; `network` and `others` stay as they are.
    """

    def __init__(
        self,
        network: Network,
        split: RowSplit,
        augmentation: Augmentation,
        epochs: int,
        others: Sequence[Network] = (),
        share_as: str = "",
        caching: Caching | None = None,
        table_limit_mib: float = TABLE_LIMIT_MIB,
        compute: Compute = "fp32",
    ) -> None:
        self.network = network
        self.others = tuple(others)
        self._compute_in = compute
        self._asked = [asked(teacher, compute) for teacher in (network, *self.others)]
        self._split = split
        self._augmentation = augmentation
        self._items = items_of(split, augmentation)
        self._caching = caching if self._items is not None else None
        self._variants = 1 if split.always_same else augmentation.variants
        self._opened: list[TeacherRows] | None = None
        self._on_device: list[DeviceRows] | None = None
        width = sum(teacher.pooled_dim + len(teacher.classifier()[1]) for teacher in (network, *self.others))
        size_mib = len(split) * self._variants * width * 4 / 2**20
        pays = split.always_same or (split.crops_only and augmentation.variants < epochs)
        self.keeps_table = pays and size_mib <= table_limit_mib
        self._tables: list[Table] | None = None
        self._share_as = share_as
        self._epoch: tuple[int, int] | None = None
        self._troubles: set[str] = set()

    @property
    def _cached(self) -> list[TeacherRows]:
        """The rows of every teacher, opened when first needed; none without `caching`, or where that is not exact."""
        if self._opened is None:
            self._opened = []
            if self._caching is not None:
                try:
                    of_images = self._split, self._augmentation, self._caching
                    self._opened = [
                        TeacherRows(teacher, *of_images, ask)
                        for teacher, ask in zip((self.network, *self.others), self._asked, strict=True)
                    ]
                except PlaceMatters as error:
                    self._say(f"not used: what '{error}' says of an image depends on its place in a batch")
        return self._opened

    @property
    def _images(self) -> Split:
        """The split, where its rows are asked for by crop."""
        assert isinstance(self._split, Split), "crops are of images"
        return self._split

    @property
    def fetches_images(self) -> bool:
        """Whether logits and pooled features need no images from the caller."""
        return self.keeps_table or bool(self._cached)

    def begin_epoch(self, order_seed: int, epoch: int) -> None:
        """Says which images and crops are asked for next: what is missing is then computed in full batches."""
        self._epoch = (order_seed, epoch)

    def stand_in(self) -> None:
        """Lets one batch stand for all that is kept in memory: for timing, which reads no numbers."""
        if self.keeps_table and self._tables is None:
            rows = len(self._split) * self._variants
            parts = [self._asked_for(ask, 0) for ask in self._asked]
            place_R = torch.arange(rows, device=self._split.labels_N.device) % len(parts[0].logits_BK)
            self._tables = [Signals(part.logits_BK[place_R], part.pooled_BC[place_R]) for part in parts]

    def cache_rates(self) -> dict[str, float | None]:
        """`CACHE_COLUMNS` since the last call, over all teachers; empty where nothing was asked of the cache."""
        opened = self._opened or []
        counts = [teacher.rates() for teacher in opened]
        hits, computed, filled, rows = (
            sum(count[name] for count in counts) for name in ("found", "computed", "filled", "rows")
        )
        for trouble in {teacher.store.trouble for teacher in opened} - {""}:
            self._say(f"{trouble}; what is not stored is computed, with the same numbers")
        if not hits + computed:
            return {}
        return {"teacher_cache_hit_rate": hits / (hits + computed), "teacher_cache_fill_rate": filled / rows}

    @torch.no_grad()
    def signals(
        self,
        positions_B: Tensor,
        inputs: Inputs | None,
        crops_B: Crops | None,
        stages: bool = False,
        strong: Inputs | None = None,
    ) -> Signals:
        """Logits and pooled feature of a batch by every teacher, and the main one's maps when asked; no gradient.

        Args:
            positions_B: rows of the split.
            inputs: the same images, augmented and normalised; read (and needed) only for what comes live.
            crops_B: their crops; None where crops alone do not say what was done to the images.
            stages: whether all maps that the main teacher offers, and its classifier, are needed.
            strong: the same images under the strong augmentation; None gives no signals of them.
        """
        identified = crops_B is not None or self._split.always_same
        if not identified or (stages and not self.others) or not self.fetches_images:
            signals = self._live(inputs, stages)
        else:
            stored = self._stored(positions_B, crops_B, range(int(stages), 1 + len(self.others)))
            main = self._main(inputs, stages) if stages else stored.pop(0)
            signals = replace(main, others=tuple(stored))
        return signals if strong is None else replace(signals, strong=self._live(strong, stages))

    def _live(self, inputs: Inputs | None, stages: bool) -> Signals:
        assert inputs is not None
        others = tuple(other(inputs).detach() for other in self._asked[1:])
        return replace(self._main(inputs, stages), others=others)

    def _main(self, inputs: Inputs | None, stages: bool) -> Signals:
        assert inputs is not None
        signals = self._asked[0](inputs, stages)
        return (replace(signals, classifier=self.network.classifier()) if stages else signals).detach()

    def _stored(self, positions_B: Tensor, crops_B: Crops | None, which: Sequence[int]) -> list[Signals]:
        """What some of the teachers (0: the main one) say without being asked for maps."""
        if self.keeps_table:
            variant_B = 0 if crops_B is None else crops_B.variant_N(self._augmentation)
            rows_B, tables = positions_B * self._variants + variant_B, self._kept()
            return [self._from_table(tables[index], index, rows_B, positions_B) for index in which]
        assert self._items is not None, "what no store could name comes live"
        rows_B = self._items.rows(positions_B, crops_B)
        if rows_B.device.type == "cuda":
            return self._from_device(positions_B, rows_B, which)
        asked = [self._cached[index] for index in which]
        if self._epoch is not None:
            rows_N, order_R = self._items.drawn(*self._epoch)
            for teacher in asked:
                teacher.expect(rows_N[order_R])
            self._epoch = None
        rows = rows_B.numpy()
        return [teacher.signals(rows) for teacher in asked]

    def _from_device(self, positions_B: Tensor, rows_B: Tensor, which: Sequence[int]) -> list[Signals]:
        """As `_stored`, without a copy to the host."""
        assert self._items is not None, "what no store could name comes live"
        if self._on_device is None:
            self._on_device = device_rows(self._cached, self._split.items, rows_B.device)
        asked = [self._on_device[index] for index in which]
        if self._epoch is not None:
            drawn = self._items.drawn(*self._epoch)
            for teacher in asked:
                teacher.expect(*drawn)
            self._epoch = None
        places_B = self._items.places(positions_B)
        return [teacher.signals(places_B, rows_B) for teacher in asked]

    def _from_table(self, table: Table, index: int, rows_B: Tensor, positions_B: Tensor) -> Signals:
        if isinstance(table, Signals):
            return Signals(table.logits_BK[rows_B], table.pooled_BC[rows_B])
        self._cached[index].found += len(self._cached[index].items.places(positions_B))
        pooled_RC, logits_RK = table
        logits_BK = None if logits_RK is None else logits_RK.index_select(0, rows_B)
        return self._cached[index].answer(pooled_RC.index_select(0, rows_B), logits_BK)

    def _kept(self) -> list[Table]:
        if self._tables is not None:
            return self._tables
        stores = [teacher.store.key for teacher in self._cached]
        share_as = self._share_as and "/".join([self._share_as, self._compute_in, *stores])
        self._tables = _shared.get(share_as)
        if self._tables is None:
            if self._cached:
                self._tables = [self._gathered(teacher) for teacher in self._cached]
            else:
                self._tables = [self._compute(ask) for ask in self._asked]
            if share_as:
                forget_tables()  # one study's at a time: a worker that goes on to another does not keep both
                _shared[share_as] = self._tables
        return self._tables

    def _compute(self, ask: Asked) -> Signals:
        """Signals of every image and crop, [R, K] and [R, C] with R = images times variants."""
        if self._split.always_same:
            with contextlib.closing(self._split.plain_batches(self._split.at_once)) as batches:
                return signals_of(ask, (inputs for _, inputs in batches))
        rows = len(self._split) * self._variants
        parts = [self._asked_for(ask, start) for start in range(0, rows, TABLE_BATCH)]
        logits_RK = torch.cat([part.logits_BK for part in parts])[:rows]
        return Signals(logits_RK, torch.cat([part.pooled_BC for part in parts])[:rows])

    def _asked_for(self, ask: Asked, start: int) -> Signals:
        """Signals of one batch of all images and crops; the last one wraps."""
        if self._split.always_same:
            return ask(self._split.sample(self._split.at_once)[1])
        variants = self._variants
        rows_B = start + torch.arange(TABLE_BATCH, device=self._split.labels_N.device)
        rows_B = rows_B % (len(self._split) * variants)
        return ask(self._images.images(rows_B // variants, variant_crops(rows_B % variants, self._augmentation)))

    def _gathered(self, cached: TeacherRows) -> Table:
        """Every image and crop of the split out of the cache."""
        rows_R = cached.items.of_split()
        cached.store.refresh()
        values_RW = torch.from_numpy(cached.values(rows_R)).to(self._split.labels_N.device)
        return cached.parted(values_RW, torch.from_numpy(rows_R))

    def _say(self, trouble: str) -> None:
        """Prints what is wrong with the cache, once (it is the trial's log that it goes to)."""
        if trouble not in self._troubles:
            self._troubles.add(trouble)
            print(f"warning: teacher cache: {trouble}")
