"""What one frozen teacher says about images and crops, by row: found in the cache, or computed in batches of one size.

A row is an image (of all stored ones) in one crop, or a window of text (`teacher.items`). Whatever is asked, rows pass
through the cache's precision, and rows that are computed are computed in batches of one size, in which a row's numbers
depend neither on its place nor on the others. A trial's numbers are therefore the same, to the last bit on the CPU,
whether the cache is empty, partly filled, full, or cannot be used at all.

Shapes: B rows asked for, P rows of a computed batch, R rows of an epoch, C feature width, K classes, W = C or C + K
numbers of each answer of a row.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from akdtune.data.dataset import DataSet
from akdtune.data.row_sets import RowDataSet, RowSplit
from akdtune.data.windows import WindowData
from akdtune.devices import float32_as_set
from akdtune.networks import Network, layout
from akdtune.settings.data import Augmentation
from akdtune.settings.teacher import CacheSettings
from akdtune.signals import Signals
from akdtune.teacher.asked import Asked, InBfloat16, rebuilt
from akdtune.teacher.cache import Store
from akdtune.teacher.cache_files import CacheLimits, Flags, Rows, Values
from akdtune.teacher.checkpoints import weights_hash
from akdtune.teacher.items import items_of

FP16_MAX = 65504.0


@dataclass(frozen=True)
class Caching:
    """How the teachers of a trial use the cache.

    Attributes:
        settings: of the study.
        images: plain JSON that names the stored images, `RowDataSet.images_key`.
        data: name of the data set, for people.
        limits: of room and blocks.
    """

    settings: CacheSettings
    images: Sequence[Any]
    data: str
    limits: CacheLimits = field(default_factory=CacheLimits)


def live_reason(dataset: RowDataSet) -> str | None:
    """Why teachers run live on a data set's training items; None for windows of text, and where crop and flip say which
    image it is."""
    if isinstance(dataset, WindowData):
        return None
    if not isinstance(dataset, DataSet):
        return f"the data set '{dataset.name}' holds no images; a trial keeps its answers in memory where they fit"
    if dataset.streams:
        return "images are read batch by batch (data.stream)"
    if not dataset.augmentation.crops_only:
        others = [name for name in dataset.augmentation.facts() if name not in ("pad", "flip")]
        return f"{dataset.augmented_by} does more than crop and flip ({', '.join(others)})"
    return None


class PlaceMatters(Exception):
    """A network's numbers for an image depend on where it stands in a batch, so nothing exact can be stored."""


_probed: dict[str, tuple[str, bool]] = {}
"""What the networks of this process said to their first batch, by the facts known before it."""


def forget_probes() -> None:
    """Asks every network anew what it says to its first batch, as a new process does."""
    _probed.clear()


class TeacherRows:
    """One teacher's rows.

    Args:
        network: in eval mode, on the device of the split.
        split: any split of the images or windows; rows count all stored ones.
        augmentation: what crops are drawn from.
        caching: settings and names.
        ask: what answers in the network's place, `InBfloat16`; None: the network itself, in float32.

    Raises:
        PlaceMatters: see there; on the CPU alone, elsewhere numbers are not reproducible to the last bit anyway.
    """

    def __init__(
        self,
        network: Network,
        split: RowSplit,
        augmentation: Augmentation,
        caching: Caching,
        ask: Asked | None = None,
    ) -> None:
        items = items_of(split, augmentation)
        assert items is not None, "what no store could name comes live"
        self.network, self.items = network, items
        self._ask = ask or network
        self._device = items.device
        self._batch = items.batch
        self._weight_KC, self._bias_K = (part.detach() for part in network.classifier())
        self._layout = layout(network)
        self.rows = items.count
        settings = caching.settings
        self._half = settings.dtype == "fp16"
        facts = self._facts(caching)
        probe, self.keeps_logits = self._probe(facts)
        self.width = items.answers * (network.pooled_dim + (len(self._bias_K) if self.keeps_logits else 0))
        about = {"network": type(network).__name__, "data": caching.data}
        bound = None if settings.max_mib is None else settings.max_mib * 2**20
        facts |= {"probe": probe, "rows": self.rows, "width": self.width, "dtype": settings.dtype}
        self.store = Store(settings.folder(), facts, about, bound, settings.seed_folder(), caching.limits)
        if self._device.type == "cpu" and not self.store.known():
            self._refuse_if_place_matters()
        self.found = self.computed = 0
        self._ahead: Rows = np.empty(0, np.int64)
        self._by_number: Rows = self._ahead
        self._next = 0
        self._waiting: dict[int, Values] = {}

    def expect(self, rows_R: Rows) -> None:
        """Says which rows an epoch will ask for, in this order: computed batches are filled up with what is next."""
        self.store.refresh()
        self._waiting = {}
        self._ahead = rows_R[~self.store.marked(rows_R)]
        self._by_number, self._next = np.argsort(self._ahead), 0

    def signals(self, rows_B: Rows) -> Signals:
        """Logits and pooled feature of some rows, float32 on the device."""
        return self.said(torch.from_numpy(self.values(rows_B)).to(self._device), torch.from_numpy(rows_B))

    def said(self, values_BW: Tensor, rows_B: Tensor) -> Signals:
        """Logits and pooled feature out of rows as they are kept."""
        return self.answer(*self.parted(values_BW, rows_B))

    def parted(self, values_BW: Tensor, rows_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pooled feature and, where they are kept, logits out of rows as they are kept, in float32."""
        values_BW, rows_B = values_BW.to(torch.float32), rows_B.to(values_BW.device)
        of_features = self.items.answers * self.network.pooled_dim
        pooled_RC = self.items.answered(rows_B, values_BW[:, :of_features])
        return pooled_RC, self.items.answered(rows_B, values_BW[:, of_features:]) if self.keeps_logits else None

    def answer(self, pooled_BC: Tensor, logits_BK: Tensor | None) -> Signals:
        """What the network says, out of what `parted` gives."""
        if logits_BK is not None:
            return Signals(logits_BK, pooled_BC)
        with torch.autocast(self._device.type, enabled=False):
            return Signals(functional.linear(pooled_BC, self._weight_KC, self._bias_K), pooled_BC)

    def values(self, rows_B: Rows) -> Values:
        """Rows as they are kept, [B, W] in the cache's precision; what is missing is computed and kept."""
        found_B, values_BW = self.store.find(rows_B)
        values_BW = np.ascontiguousarray(values_BW)
        early_B = self._from_waiting(rows_B, values_BW)
        self.found += int((found_B & ~early_B).sum())
        missing_B = ~(found_B | early_B)
        if missing_B.any():
            needed = np.unique(rows_B[missing_B])
            new_MW = self._made(needed)
            values_BW[missing_B] = new_MW[np.searchsorted(needed, rows_B[missing_B])]
        return values_BW

    def rates(self) -> dict[str, int]:
        """Rows found, rows computed since the last call, rows filled and rows in all."""
        counts = {"found": self.found, "computed": self.computed, "filled": self.store.filled(), "rows": self.rows}
        self.found = self.computed = 0
        return counts

    def _from_waiting(self, rows_B: Rows, values_BW: Values) -> Flags:
        """Fills in what was computed before it was asked for; which rows that were."""
        early_B = np.zeros(len(rows_B), bool)
        if self._waiting:
            for index, row in enumerate(rows_B.tolist()):
                if (waiting := self._waiting.pop(row, None)) is not None:
                    values_BW[index] = waiting
                    early_B[index] = True
        return early_B

    def _made(self, needed: Rows) -> Values:
        """Computes rows (rising, each once) in full batches, the last one filled up with what comes next."""
        free = -len(needed) % self._batch
        following = self._following(needed, free)
        rows = np.concatenate([needed, following])
        parts = []
        for start in range(0, len(rows), self._batch):
            of_batch = rows[start : start + self._batch]
            parts.append(self._rounded(self._computed(of_batch))[: len(of_batch)])
            self.store.put(of_batch, parts[-1])
        made_MW = np.concatenate(parts)
        self.computed += len(rows)
        self._waiting |= dict(zip(following.tolist(), made_MW[len(needed) :], strict=True))
        return made_MW[: len(needed)]

    def _following(self, needed: Rows, most: int) -> Rows:
        """Up to so many rows that the epoch will ask for after these, and that nobody has stored meanwhile."""
        if not len(self._ahead):
            return self._ahead
        places = np.searchsorted(self._ahead, needed, sorter=self._by_number)
        places = self._by_number[np.minimum(places, len(self._ahead) - 1)]
        passed = places[self._ahead[places] == needed]
        self._next = max(self._next, int(passed.max(initial=-1)) + 1)
        candidates = self._ahead[self._next : self._next + 4 * most]
        candidates = candidates[~self.store.marked(candidates)]
        fresh = [row for row in candidates.tolist() if row not in self._waiting]
        return np.array(fresh[:most], np.int64)

    @torch.no_grad()
    def _outputs(self, rows_P: Rows) -> tuple[Tensor, Tensor]:
        """Pooled feature and logits of one batch of the fixed size, filled up with repetitions, in float32."""
        inputs = self.items.inputs(self._filled(rows_P), self._layout)
        full_float32 = float32_as_set(self._device, tf32=False)
        with torch.autocast(self._device.type, enabled=False), full_float32:
            said = self._ask(inputs)
        return said.pooled_BC.float(), said.logits_BK.float()

    def _filled(self, rows_P: Rows) -> Tensor:
        return torch.from_numpy(np.resize(rows_P, self._batch)).to(self._device)

    def _computed(self, rows_P: Rows) -> Tensor:
        """Rows as they are kept, before they are rounded, [P, W]."""
        pooled_RC, logits_RK = self._outputs(rows_P)
        filled_P = self._filled(rows_P)
        kept_PX = self.items.kept(filled_P, pooled_RC)
        return torch.cat([kept_PX, self.items.kept(filled_P, logits_RK)], dim=1) if self.keeps_logits else kept_PX

    def _rounded(self, values_PW: Tensor) -> Values:
        """As kept: what half precision cannot hold becomes its largest number, not infinite."""
        if self._half:
            values_PW = values_PW.clamp(-FP16_MAX, FP16_MAX).half()
        rounded: Values = values_PW.cpu().numpy()
        return rounded

    def _facts(self, caching: Caching) -> dict[str, Any]:
        """What the numbers depend on, as far as it is known before the network was asked anything."""
        kind, device = type(self.network), self._device
        return {
            "weights": weights_hash(self.network),
            "network": [f"{kind.__module__}.{kind.__qualname__}", _short_hash(_plan(self.network).encode())],
            "images": list(caching.images),
            **self.items.facts(),
            "precision": "bf16" if isinstance(self._ask, InBfloat16) else "fp32",
            "layout": str(self._layout),
            "batch": self._batch,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "torch": torch.__version__,
        }

    def _probe(self, facts: dict[str, Any]) -> tuple[str, bool]:
        """Hash of what the network says to one batch, and whether logits have to be kept beside the feature.

        On the CPU the hash is part of the key: another processor, library or version of the network's code that changes
        a single bit has a store of its own. (Elsewhere equal runs may differ in the last bits.)
        """
        known = _short_hash(repr((facts, torch.get_num_threads())).encode())
        if known not in _probed:
            pooled_PC, logits_PK = self._outputs(self.items.first())
            said = b"".join(part.cpu().numpy().tobytes() for part in (pooled_PC, logits_PK))
            exact = _short_hash(said) if self._device.type == "cpu" else ""
            _probed[known] = (exact, not rebuilt(self.network, Signals(logits_PK, pooled_PC)))
        return _probed[known]

    def _refuse_if_place_matters(self) -> None:
        rows = self.items.first()
        there, back = self._computed(rows), self._computed(rows[::-1].copy()).flip(0)
        if not torch.equal(there, back):
            raise PlaceMatters(type(self.network).__name__)


def _plan(network: Network) -> str:
    """The layers of a network as torch prints them, without addresses in memory."""
    return re.sub(r"0x[0-9a-fA-F]+", "", repr(network))


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
