"""Finished trials trained again, elsewhere on this disk, and compared with what is stored bit by bit."""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from akdtune.devices import ready_to_train
from akdtune.errors import AkdtuneError
from akdtune.randomness import derived_seed
from akdtune.records import files, recorded_files
from akdtune.records.trial_directory import TrialDirectory
from akdtune.registry import load_plugins, plugin_folders
from akdtune.reports.text import counted
from akdtune.running.streams import draws, is_current
from akdtune.running.trial_writer import Limits, TrialWriter
from akdtune.settings.data import without_download
from akdtune.settings.sections import SchedulerSettings, SearchSettings
from akdtune.settings.teacher import CacheSettings
from akdtune.study import search_rules
from akdtune.teacher.find import located
from akdtune.training.config import TrialConfig
from akdtune.training.loop import Diverged
from akdtune.training.request import TrialRequest, trial_seeds
from akdtune.training.trial import trial_of
from akdtune.verification.checks import Check, Progress, check, not_at_hand, same
from akdtune.verification.identity import teacher_of
from akdtune.verification.ledger import Ledger
from akdtune.verification.surroundings import elsewhere

Lock = Mapping[str, Any]
Plan = Mapping[str, Any]

OF_THE_RUN = frozenset({
    "attempt", "wall_time_s", "warmup_time_s", "images_per_s", "peak_memory_mib", "teacher_cache_hit_rate",
    "teacher_cache_fill_rate",
})  # fmt: skip
"""Columns that are times, memory, attempts, or what somebody else left in the cache: no numbers of a trial."""

SHOWN = 5
"""Differences of a trial that are named."""


def chosen(done: Sequence[str], number: int, seed: int) -> list[str]:
    """So many of some trials, drawn at random by a seed."""
    rng = random.Random(derived_seed("verify", seed))
    return sorted(done, key=lambda _: rng.random())[:number]


def request_of(lock: Lock, plan: Plan) -> TrialRequest:
    """What a trial was asked, out of the study's lock and its row of the plan.

    Raises:
        AkdtuneError: when the lock lacks it, or a plug-in is not there.
    """
    held = lock["settings"]
    plugins = tuple(held.get("plugins") or ())
    load_plugins(plugins, (str(Path.cwd()),))
    cache, settings = held.get("teacher_cache"), plan["settings"]
    return TrialRequest(
        trial_id=plan["trial_id"],
        cell_id=plan["cell_id"],
        role=plan["role"],
        arm=plan["arm"],
        seed=plan["seed"],
        settings={**settings, "data": without_download(settings["data"])},
        params=plan["params"],
        cell=plan.get("cell"),
        study=held["study"],
        seeds=trial_seeds(plan["seed"], settings.get("seeds")),
        report_trains_on=(held.get("report") or {}).get("train_on", "full"),
        teacher_file=located(teacher_of(lock, plan["role"])),
        teacher_cache=None if cache is None else CacheSettings.held(cache).of_trial(settings["training"]),
        plugins=plugins,
        plugin_folders=plugin_folders(plugins),
        rungs=_rungs(held, plan),
        cpu=(held.get("resources") or {}).get("cpu", 1),
    )


def _rungs(held: Mapping[str, Any], plan: Plan) -> list[int]:
    """The epochs at which the trial was compared with others: views that change are measured there, too."""
    if plan["role"] != "search" or not held.get("scheduler"):
        return []
    search, scheduler = SearchSettings(**held["search"]), SchedulerSettings(**held["scheduler"])
    follows = search_rules.first_seed_leads(search, scheduler) and plan["seed"] != search.training_seeds[0]
    return [] if follows else scheduler.rungs(int(plan["settings"]["training"]["epochs"]))


def rerun_check(
    run: Path, lock: Lock, held: Ledger, plans: Mapping[str, Plan], trial_ids: Sequence[str], progress: Progress
) -> list[Check]:
    """Trains trials again in a temporary folder; a row each.

    Args:
        run: the study directory.
        lock: its content.
        held: its ledger.
        plans: rows of the plan, by trial.
        trial_ids: of finished trials.
        progress: told after each epoch.
    """
    threads = torch.get_num_threads()
    try:
        return [_again(run, lock, held, plans[trial_id], progress) for trial_id in trial_ids]
    finally:
        torch.set_num_threads(threads)


def _again(run: Path, lock: Lock, held: Ledger, plan: Plan, progress: Progress) -> Check:
    trial_id = str(plan["trial_id"])
    name = f"rerun {trial_id}"
    stored = TrialDirectory(files.trial_directory(run, trial_id))
    with tempfile.TemporaryDirectory(prefix="akdtune-verify-") as folder:
        again = TrialDirectory(Path(folder) / trial_id)
        again.path.mkdir()
        try:
            request = replace(request_of(lock, plan), record=_kept(stored))
            _train(request, again, progress)
            found = list(_differences(stored, again))
            outcome = stored.read_outcome() or {}
        except Diverged as error:
            return Check(name, "found", "trained again", (f"trial {trial_id}: {error}; it is stored as done",))
        except (AkdtuneError, KeyError) as error:
            return not_at_hand(name, str(error), needed=True)
        epochs = again.rows_written()
    if not found:
        return check(name, f"{counted(epochs, 'epoch')} and predictions equal to the last bit", [])
    end = held.trials[trial_id].end
    why = elsewhere(end.trained_on if end is not None else None, request.cpu, plan["settings"]["training"]["device"])
    if not is_current(outcome) and draws(plan["settings"]):
        why.append("its random numbers were drawn by an earlier version")
    if why:
        said = f"not equal, and not to be expected: {'; '.join(why)}; {found[0]}"
        return Check(name, "differs", said, needed=True)
    more = [f"trial {trial_id}: {len(found) - SHOWN} further columns differ"] if len(found) > SHOWN else []
    return check(name, f"{counted(epochs, 'epoch')} trained again", [*found[:SHOWN], *more])


def _kept(trial: TrialDirectory) -> dict[str, Any]:
    """What a trial was asked to keep (`record`), as its files show: a study may ask for something else meanwhile."""
    if not trial.predictions.exists():
        return {}
    held = files.read_schema(trial.predictions)
    numbers = recorded_files.TOP_LOG_P if recorded_files.TOP_LOG_P in held.names else "logits"
    half = pa.types.is_float16(held.field(numbers).type.value_type)
    few = {"features": recorded_files.FEATURES, "attention": recorded_files.ATTENTION}
    return {
        "predictions": "float16" if half else "float32",
        "views": recorded_files.VIEWS_KEPT in (held.metadata or {}),
        **{key: files.count_rows(trial.path / name) for key, name in few.items() if (trial.path / name).exists()},
        "augmented": (trial.path / recorded_files.AUGMENTED).exists(),
        "train": trial.epochs.exists() and "plain_train_accuracy" in files.read_schema(trial.epochs).names,
    }


def _train(request: TrialRequest, directory: TrialDirectory, progress: Progress) -> None:
    ready_to_train(request.cpu)
    with contextlib.redirect_stdout(io.StringIO()):
        live = trial_of(TrialConfig.parse(request))
        directory.columns = live.columns
        writer = TrialWriter(request, directory, limits=Limits(checkpoint_every_s=float("inf")))
        total = sum(live.epochs.values())
        for done, epoch in enumerate(live.run(), start=1):
            writer.finished(epoch)
            progress(f"training {request.trial_id}", done, total)
        writer.close(live)


def _differences(stored: TrialDirectory, again: TrialDirectory) -> Iterator[str]:
    """Columns of rows and predictions that are not the same, each with the first place."""
    place = f"trials/{stored.path.name}"
    kept = ((stored.path / name, again.path / name, "sample_id") for name in recorded_files.OF_TRIAL)
    for path, other, key in ((stored.epochs, again.epochs, "epoch"), *kept):
        if not path.exists():
            if key == "epoch":
                yield f"{place}/{path.name}: is missing"
            continue
        mine, theirs = files.read_table(path), files.read_table(other)
        if mine.num_rows != theirs.num_rows:
            yield f"{place}/{path.name}: {mine.num_rows} rows stored, {theirs.num_rows} recomputed"
            continue
        keys = mine[key].to_pylist()
        for name in (name for name in mine.column_names if name not in OF_THE_RUN):
            if name not in theirs.column_names:
                yield f"{place}/{path.name}, {name}: is not measured here"
                continue
            pairs = zip(keys, mine[name].to_pylist(), theirs[name].to_pylist(), strict=True)
            first = next(((at, a, b) for at, a, b in pairs if not same(a, b)), None)
            if first is not None:
                at, a, b = first
                values = "" if isinstance(a, list) else f": stored {a!r}, recomputed {b!r}"
                yield f"{place}/{path.name}, {name}, first at {key} {at}{values}"
