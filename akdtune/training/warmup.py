"""The warm-up of view heads, trained once and shared by all trials that would train exactly the same.

What the heads are after it depends on the teachers, the training data with their labels, the heads' own settings and
initial weights, the trial's seeds, and a part of the recipe; nothing of it is the student's or the methods'. A hash of
all that names an artefact, `<cache>/warmups/<key>/`: `heads.pt` holds the heads' weights after the last epoch, and
`header.json`, written after it, what the key stands for, the epochs' rows, and a hash of the weights file. One process
trains at a time, with a lock that ends with it; the others wait, then read. A trial that reads goes on with the same
numbers to the last bit; one that cannot read or write (damage, full disk) trains for itself. Trials of different seeds
never share: their differences are what a report measures.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from akdtune import atomic
from akdtune.data.row_sets import RowDataSet, RowSplit
from akdtune.folders import cache_directory
from akdtune.teacher.cache_files import HEADER, header_hash, key_of, read_header
from akdtune.teacher.frozen import FrozenTeacher
from akdtune.training.config import TrialConfig
from akdtune.training.teacher_turn import giving_signs
from akdtune.views import ViewAugmenter

FORMAT = 2
"""Part of every key: raised when what is stored changes, or when anything changes what a warm-up computes that is not
the code of views and networks, which is in the key by itself. Old artefacts are then unused, not wrong."""

HEADS, LOCK, TRAINER = "heads.pt", "train.lock", "trainer"

WITHOUT_PART = frozenset(
    "epochs lr milestones lr_decay optimizer dot_delta schedule ce_weight augmentation precision compile cuda_graphs"
    " device".split()
)
"""Training settings that act on the student alone; device and augmentation are named by themselves, any other is in the
key."""


@dataclass(frozen=True)
class WarmupLimits:
    """How processes wait for one another, and what they keep.

    Attributes:
        poll_s: who waits looks so often.
        sign_s: while it trains, a process gives a sign of life at most this often.
        patience_s: who waits for another process that gave no sign for so long (stopped, not dead) trains for itself.
        kept_bytes: artefacts of a node together; beyond it, those that nobody used for longest are dropped.
    """

    poll_s: float = 0.2
    sign_s: float = 1.0
    patience_s: float = 600.0
    kept_bytes: int = 2**30


Row = dict[str, float | None]

_held: set[Path] = set()
"""What this process trains: a second trial of it must not wait for the first, which could never go on."""


def warmups_location() -> Path:
    """Where all artefacts lie."""
    return cache_directory() / "warmups"


class SharedWarmup:
    """One trial's use of the artefact that its warm-up is, or will become.

    Args:
        views: the trial's own, which are trained, or given the weights that are found.
        facts: plain JSON, everything that those weights depend on.
        trainer: name of this trial, for people.
        since: `time.monotonic()` at which the warm-up began.
        limits: how long it waits, and what is kept.
    """

    def __init__(
        self,
        views: ViewAugmenter,
        facts: Mapping[str, Any],
        trainer: str,
        since: float,
        limits: WarmupLimits = WarmupLimits(),
    ) -> None:
        self.views, self.facts, self.trainer, self.limits = views, dict(facts), trainer, limits
        self.key = key_of(facts)
        self.folder = warmups_location() / self.key
        self._since = since
        self._said: set[str] = set()

    @classmethod
    def of(
        cls,
        config: TrialConfig,
        dataset: RowDataSet,
        train: RowSplit,
        teachers: FrozenTeacher,
        views: ViewAugmenter,
        trainer: str,
        limits: WarmupLimits = WarmupLimits(),
    ) -> SharedWarmup | None:
        """That of a trial whose views are as they were drawn; None where there is nothing that could be shared."""
        since = time.monotonic()
        networks = (teachers.network, *teachers.others)
        sources = _sources(views, *networks)
        if not views.warmup_epochs or next(views.parameters(), None) is None or sources is None:
            return None
        name, settings = config.views
        facts = {
            "format": FORMAT,
            "views": {"name": name, **settings.model_dump(mode="json", exclude=set(views.unused_in_warmup()))},
            "epochs": views.warmup_epochs,
            "drawn": _state_hash(views),
            "seeds": config.seeds.model_dump(exclude={"rounding"}),  # which is the student's alone
            "teachers": [_state_hash(network) for network in networks],
            "networks": [file.network for file in (config.teacher_file, *config.teacher_file.others)],
            "sources": sources,
            # a table without the cache is computed in batches of another size than what comes live
            "numbers": "live" if config.teacher_cache is None else config.teacher_cache.dtype,
            **({} if config.teacher_compute == "fp32" else {"teacher_compute": config.teacher_compute}),
            "kept": [teachers.keeps_table, teachers.fetches_images],
            # images that go through the teachers as they come lie in memory as the student wants them
            "student": None if teachers.fetches_images else config.student.network,
            "data": dataset.fingerprint(config.train_on),
            "inputs": asdict(dataset.inputs),
            "labels": _bytes_hash(train.training_labels_N),
            "train_on": config.train_on,
            "training": config.training.model_dump(mode="json", exclude=set(WITHOUT_PART)),
            "machine": _machine(train.labels_N.device),
        }
        return cls(views, facts, trainer, since, limits)

    def epochs(
        self,
        done: int,
        train: Callable[[int, Callable[[], bool]], Row],
        should_stop: Callable[[], bool],
        check: Callable[[], None],
    ) -> Generator[tuple[int, Row], None, None]:
        """Finished epochs and their rows: all that were left, or the last one alone where the warm-up was found.

        The views are then as after that epoch. `wall_time_s` is the time it took here, waiting included.

        Args:
            done: epochs that the views have behind them.
            train: trains the views for one epoch, given its number and `should_stop`, and returns its row.
            should_stop: handed on to `train`.
            check: asked while waiting; raises to end that.
        """
        artefact = self._read()
        if artefact is None:
            with self._turn(check) as may_keep:
                artefact = self._read(say=may_keep)  # trained while this trial waited
                if artefact is None:
                    yield from self._trained(done, train, should_stop, may_keep)
                    return
        header, heads = artefact
        self.views.load_state_dict(heads)
        print(f"warm-up found: {self.key}, trained in {header['trained_s']:.1f} s by {header['trained_by']}")
        row = {name: value for name, value in header["rows"][-1].items() if name != "epoch"}
        yield self.views.warmup_epochs, row | {"wall_time_s": time.monotonic() - self._since}

    def _trained(
        self, done: int, train: Callable[[int, Callable[[], bool]], Row], should_stop: Callable[[], bool], keep: bool
    ) -> Generator[tuple[int, Row], None, None]:
        rows: list[Row] = []
        alive = giving_signs(self.folder / TRAINER, self.limits.sign_s, should_stop) if keep else should_stop
        for epoch in range(done + 1, self.views.warmup_epochs + 1):
            row = train(epoch, alive)
            rows.append({"epoch": epoch, **row})
            if keep and epoch == self.views.warmup_epochs:
                self._keep(rows)
            yield epoch, row | {"wall_time_s": time.monotonic() - self._since}
            self._since = time.monotonic()

    # ---------------------------------------------------------------------------------------------------- whose turn

    @contextlib.contextmanager
    def _turn(self, check: Callable[[], None]) -> Iterator[bool]:
        """Waits while another process trains the same; gives whether what is trained now may be kept."""
        lock = None if self.folder in _held else self._acquired(check)
        if lock is None:
            yield False
            return
        _held.add(self.folder)
        try:
            with contextlib.suppress(OSError):
                for left_over in self.folder.glob(f"*{atomic.TEMPORARY}"):
                    left_over.unlink()
                (self.folder / TRAINER).write_text(self.trainer, encoding="utf-8")
            yield True
        finally:
            with contextlib.suppress(OSError):
                (self.folder / TRAINER).unlink()
            _held.discard(self.folder)
            lock.release()

    def _acquired(self, check: Callable[[], None]) -> FileLock | None:
        """The lock; None where there can be none, or where who holds it is silent."""
        lock = FileLock(str(self.folder / LOCK), thread_local=False)
        sign, heard = 0, time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while not _locked(lock, self.limits.poll_s):
                trainer, latest = self._other()
                self._say(f"warm-up: waits for {self.key}, which {trainer} trains")
                if latest != sign:
                    sign, heard = latest, time.monotonic()
                elif time.monotonic() - heard > self.limits.patience_s:
                    silent_s = f"{self.limits.patience_s:g} s"
                    self._say(f"warning: warm-up: trains for itself: {trainer} gave no sign for {silent_s}")
                    return None
                check()
        except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
            self._say(f"warning: warm-up: is not shared: {self.folder}: {_reason(error)}")
            return None
        return lock

    def _other(self) -> tuple[str, int]:
        """Who trains, and when that process gave its last sign."""
        try:
            trainer = self.folder / TRAINER
            return trainer.read_text(encoding="utf-8"), trainer.stat().st_mtime_ns
        except (OSError, ValueError):  # not yet, or not any more
            return "another process", 0

    # ---------------------------------------------------------------------------------------------------- the files

    def _read(self, say: bool = False) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Header and weights; None where they are missing or damaged, which is said when asked to."""
        header = read_header(self.folder)
        try:
            content = (self.folder / HEADS).read_bytes() if header else b""
            if header and hashlib.sha256(content).hexdigest() == header["heads"]:
                heads = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                with contextlib.suppress(OSError):
                    os.utime(self.folder / HEADER)  # when it was last of use
                return header, heads
        except (OSError, KeyError):
            pass
        if say and (self.folder / HEADER).exists():
            self._say(f"warning: warm-up: {self.key} is damaged and is trained anew")
        return None

    def _keep(self, rows: list[Row]) -> None:
        """Writes the weights, then the header that makes them count."""
        buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError without a cause, a plain write does not
        torch.save({name: _on_cpu(value) for name, value in self.views.state_dict().items()}, buffer)
        trained_s = sum(row["wall_time_s"] or 0.0 for row in rows)
        content = {
            "format": FORMAT,
            "facts": self.facts,
            "trained_by": self.trainer,
            "trained_on": socket.gethostname(),
            "trained_s": trained_s,
            "created": time.time(),
            "rows": [{k: v for k, v in row.items() if not k.startswith("teacher_cache_")} for row in rows],
            "heads": hashlib.sha256(buffer.getbuffer()).hexdigest(),
        }
        try:
            atomic.write(self.folder / HEADS, buffer.getvalue(), durable=True)
            header = json.dumps(content | {"hash": header_hash(content)}, indent=1)
            atomic.write(self.folder / HEADER, header, durable=True)
        except OSError as error:
            self._say(f"warning: warm-up: is not kept: {self.folder}: {_reason(error)}")
            with contextlib.suppress(OSError):
                (self.folder / HEADS).unlink(missing_ok=True)
        else:
            print(f"warm-up kept: {self.key}, trained in {trained_s:.1f} s")
            _drop_unused(self.folder, self.limits.kept_bytes)

    def _say(self, line: str) -> None:
        """Prints a line once (it is the trial's log that it goes to)."""
        if line not in self._said:
            self._said.add(line)
            print(line)


def _drop_unused(own: Path, kept_bytes: int) -> None:
    """Drops artefacts, the longest unused first, until the rest is small enough; never `own` or one that trains."""
    artefacts = []
    for folder in own.parent.iterdir():
        with contextlib.suppress(OSError):
            artefacts.append(((folder / HEADER).stat().st_mtime, (folder / HEADS).stat().st_size, folder))
    excess = sum(size for _, size, _ in artefacts) - kept_bytes
    for _, size, folder in sorted(artefacts):
        if excess <= 0:
            return
        if folder == own:
            continue
        with contextlib.suppress(OSError, Timeout, NotImplementedError), FileLock(str(folder / LOCK), timeout=0):
            (folder / HEADER).unlink()  # first: weights without it do not count
            (folder / HEADS).unlink(missing_ok=True)
            excess -= size


def _locked(lock: FileLock, timeout_s: float) -> bool:
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        return False
    return True


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _state_hash(module: nn.Module) -> str:
    """Hash of everything that a module's `state_dict` holds."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        described = f"{value.dtype}{tuple(value.shape)}{_bytes_hash(value)}" if isinstance(value, Tensor) else value
        digest.update(f"/{name}/{described}".encode())
    return digest.hexdigest()[:16]


def _bytes_hash(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(content.data).hexdigest()[:16]


def _machine(device: torch.device) -> list[Any]:
    """What the last bits depend on beside the numbers themselves."""
    facts: list[Any] = [torch.__version__, device.type]
    if device.type == "cuda":
        return [*facts, torch.cuda.get_device_name(device)]
    precision = torch.get_float32_matmul_precision()
    return [*facts, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), precision]


def _sources(*modules: nn.Module) -> str | None:
    """Hash of the code of modules and all their parts, plugins' and our own.

    None where a class has no file, so that nobody could tell when it changes.
    """
    kinds = {kind for module in modules for part in module.modules() for kind in type(part).__mro__}
    sources = {_source(kind) for kind in kinds if kind.__module__.partition(".")[0] not in _FOREIGN}
    if None in sources:
        return None
    return hashlib.sha256("/".join(sorted(source for source in sources if source)).encode()).hexdigest()[:16]


_FOREIGN = sys.stdlib_module_names | {"torch"}
_EDITED = {"akdtune.views", "akdtune.networks"}


@functools.cache
def _source(kind: type) -> str | None:
    """Hash of the file that defines a class; in a package, of all files beside it, as it may be made of them.

    Read once per class: a file that is edited while a process runs stays what the process has imported. Empty for
    akdtune's own classes, for which FORMAT stands, but for its views and networks.
    """
    module = sys.modules.get(kind.__module__)
    file, package = getattr(module, "__file__", None), getattr(module, "__package__", None)
    if package and package.partition(".")[0] == "akdtune" and package not in _EDITED:
        return ""
    if file is None:
        return None
    files = sorted(Path(file).parent.glob("*.py")) if package else [Path(file)]
    try:
        contents = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    except OSError:
        return None
    return hashlib.sha256("/".join([kind.__module__, *contents]).encode()).hexdigest()[:16]
