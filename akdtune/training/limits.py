"""How much a trial keeps, how long it waits, how often it measures: none of it is a setting, none is part of a key."""

from __future__ import annotations

from dataclasses import dataclass, field

from akdtune.teacher.cache_files import CacheLimits
from akdtune.teacher.frozen import TABLE_LIMIT_MIB
from akdtune.training.evaluation import VIEWS_EVERY
from akdtune.training.warmup import WarmupLimits


@dataclass(frozen=True)
class TrialLimits:
    """What bounds a trial besides its settings.

    Attributes:
        table_mib: up to which size what teachers say about training images is kept in memory.
        cache: of the teachers' rows on disk.
        warmup: of the shared warm-up.
        views_every: views that change from epoch to epoch are measured in each so-many-th epoch, at rungs and in the
            last one.
    """

    table_mib: float = TABLE_LIMIT_MIB
    cache: CacheLimits = field(default_factory=CacheLimits)
    warmup: WarmupLimits = field(default_factory=WarmupLimits)
    views_every: int = VIEWS_EVERY
