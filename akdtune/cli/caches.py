"""`akdtune cache`: what the teacher cache holds, whether it is whole, and how it is made smaller. Loads no torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akdtune.cli.tables import Listing
from akdtune.errors import AkdtuneError, nearest
from akdtune.settings.teacher import cache_location
from akdtune.teacher.cache import Store
from akdtune.teacher.cache_files import SUFFIX, Shape, read_header, taken

DAY_S = 86400.0
HEADINGS = "key|teacher|weights|data|input|crops|compute|dtype|rows filled|share|MiB|last used".split("|")


@dataclass(frozen=True)
class Entry:
    """A store as the commands see it.

    Attributes:
        folder: where it lies; its name is the key.
        header: what it is; None where that is damaged.
        taken: bytes of disk.
        used_at: seconds since the epoch of its last use.
        filled: rows present; 0 with a damaged header.
    """

    folder: Path
    header: dict[str, Any] | None
    taken: int
    used_at: float
    filled: int

    @property
    def share(self) -> float:
        """Share of all rows that is present."""
        return self.filled / Shape.of(self.header["facts"]).rows if self.header else 0.0

    def store(self) -> Store | None:
        """The store, opened; None with a damaged header."""
        return Store(self.folder.parent, self.header["facts"], self.header["about"]) if self.header else None

    def remove(self) -> None:
        """Deletes the store. Processes that have it open go on without it."""
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)
        self.folder.rmdir()


def entries(location: Path) -> list[Entry]:
    """The stores of a location, last used first."""
    stores = []
    for folder in location.iterdir() if location.is_dir() else ():
        if not folder.is_dir():
            continue
        header = read_header(folder)
        facts = [path.stat() for path in folder.glob(f"*{SUFFIX}")] or [folder.stat()]
        entry = Entry(folder, header, sum(map(taken, facts)), max(fact.st_mtime for fact in facts), 0)
        store = entry.store()
        filled = 0 if store is None else store.filled()
        stores.append(Entry(folder, header, entry.taken, entry.used_at, filled))
    return sorted(stores, key=lambda entry: entry.used_at, reverse=True)


def to_prune(stores: Sequence[Entry], older_than_s: float | None, max_bytes: int | None, now: float) -> list[Entry]:
    """Stores that were not used for so long, and further ones, longest unused first, until the rest is small enough."""
    chosen = [entry for entry in stores if older_than_s is not None and now - entry.used_at > older_than_s]
    rest = sorted((entry for entry in stores if entry not in chosen), key=lambda entry: entry.used_at)
    while max_bytes is not None and rest and sum(entry.taken for entry in rest) > max_bytes:
        chosen.append(rest.pop(0))
    return chosen


def stores_in(location: Path | None, key: str | None = None) -> list[Entry]:
    """The stores of a location (default: that of the cache folder), or those whose key begins with `key`.

    Raises:
        AkdtuneError: for a location that is no folder, or a key that none begins with.
    """
    where = location or cache_location()
    if location is not None and not where.is_dir():
        raise AkdtuneError(f"{where}: no such folder (--location)")
    every = entries(where)
    chosen = [entry for entry in every if entry.folder.name.startswith(key or "")]
    if key is not None and not chosen:
        close = nearest(key, [entry.folder.name for entry in every])
        hint = f"; did you mean '{close}'?" if close else f" among {len(every)}"
        raise AkdtuneError(f"no store '{key}'{hint} in {where} (`akdtune cache list`)")
    return chosen


def listing(stores: Sequence[Entry], now: float | None = None) -> Listing:
    """Stores with teacher, data, size and age, last used first."""
    now = time.time() if now is None else now
    rows: list[list[str]] = []
    for entry in stores:
        size, used = f"{entry.taken / 2**20:,.1f}", f"{age(now - entry.used_at)} ago"
        if entry.header is None:
            rows.append([entry.folder.name, "header damaged", *[""] * 8, size, used])
            continue
        facts, about = entry.header["facts"], entry.header["about"]
        crops, share = facts.get("crops", {}), f"{100 * entry.share:.1f} %"
        described = f"pad {crops.get('pad')}{', flip' if crops.get('flip') else ''}"
        names = (str(about.get("network", "")), str(facts.get("weights", ""))[:8], str(about.get("data", "")))
        size_in = "x".join(map(str, facts.get("input", [])))
        numbers = (str(facts.get("precision", "")), facts["dtype"], f"{entry.filled:,}", share)
        rows.append([entry.folder.name, *names, size_in, described, *numbers, size, used])
    return Listing(HEADINGS, rows, right=(8, 9, 10, 11), leave_out=(7, 4, 5, 2, 6))


def total(stores: Sequence[Entry]) -> str:
    """`3 stores, 1,234.5 MiB`."""
    size = sum(entry.taken for entry in stores) / 2**20
    return f"{len(stores)} store{'' if len(stores) == 1 else 's'}, {size:,.1f} MiB"


def verify(stores: Sequence[Entry]) -> int:
    """Reads every stored row again, with a line for each damaged file and each store; 1 where any is damaged."""
    any_damage = False
    for entry in stores:
        store = entry.store()
        if store is None:
            any_damage = True
            print(f"{entry.folder.name}: header damaged; it is written anew when the teacher is next used")
            continue
        rows = damaged = 0
        for path, marked, bad, problem in store.verify():
            rows, damaged = rows + marked, damaged + bad
            if bad or problem:
                any_damage = True
                what = problem or f"{bad:,} of {marked:,} rows damaged"
                print(f"{path}: {what}; computed again when next needed")
        print(f"{entry.folder.name}: {rows - damaged:,} rows whole, {damaged:,} damaged")
    return int(any_damage)


def prune(
    stores: Sequence[Entry], days: float | None, max_mib: float | None, everything: bool, really: bool
) -> list[str]:
    """Removes stores, or says which would be removed; returns the lines to print.

    Args:
        stores: those that may go.
        days: stores that nobody used for so many days go.
        max_mib: the longest unused ones go until the rest is this small.
        everything: all go.
        really: without it, nothing is removed.

    Raises:
        AkdtuneError: when no reason is given, or a store cannot be removed.
    """
    if days is None and max_mib is None and not everything:
        raise AkdtuneError("say what may go: --days N, --max-mib N or --all (of one store: --key KEY --all)")
    bound = None if max_mib is None else int(max_mib * 2**20)
    older_than_s = None if days is None else days * DAY_S
    chosen = list(stores) if everything else to_prune(stores, older_than_s, bound, time.time())
    if not chosen:
        return [f"nothing to remove ({total(stores)})"]
    lines = [f"{entry.folder.name}  {entry.taken / 2**20:,.1f} MiB" for entry in chosen]
    if not really:
        return [*lines, f"would remove {total(chosen)} of {total(stores)}; add --yes to do it"]
    for entry in chosen:
        try:
            entry.remove()
        except OSError as error:
            raise AkdtuneError(f"{entry.folder}: cannot be removed: {error.strerror or error}") from error
    return [*lines, f"removed {total(chosen)} of {total(stores)}"]


def age(seconds: float) -> str:
    """A time in its largest unit of which there are two."""
    for unit, length in (("d", DAY_S), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
