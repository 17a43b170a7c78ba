"""Every file of a study emptied, cut, replaced and taken away, of a study that is through and of one that is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import judge
from tests.faults.damage import DAMAGES, DERIVED, OF_A_TRIAL, OF_THE_STUDY, SAVED
from tests.faults.forked import akdtune
from tests.faults.studies import Study
from tests.faults.trouble import Trouble

pytestmark = pytest.mark.ray

SHORT = {
    ("plan.parquet", "removed"), ("study.lock.yaml", "cut"), ("trials.parquet", "garbage"), ("epochs.parquet", "cut"),
}  # fmt: skip


def commands(trouble: Trouble, study: Study, *names: str) -> dict[str, tuple[int, str]]:
    """What each command says: `run`, `show`, `best`."""
    said = {}
    for name in names:
        arguments = ["run", str(study.file), "--dir", str(study.root)] if name == "run" else [name, str(study.root)]
        said[name] = akdtune(arguments, trouble.folder / f"{name}.out", study.environment)
        trouble.read(said[name][1])
        if name == "run" and said[name][0] == 0 and (left := judge.unfinished(study.root)):
            trouble.found.append(f"exits: 0 while {len(left)} planned trials have no end")
    return said


def recovers(trouble: Trouble, study: Study, file: Path, whole: Path, ended: dict[str, int], may_refuse: bool) -> None:
    """The command mends what was damaged, or names it and goes on once it is back; readers never raise.

    Args:
        trouble: the case.
        study: with a damaged file.
        file: the damaged one.
        whole: a copy of it from before.
        ended: attempts of the trials that had ended and were not damaged.
        may_refuse: whether the file is one that a study cannot be without.
    """
    damaged = _content(file)
    commands(trouble, study, "show", "best")
    code, output = commands(trouble, study, "run")["run"]
    refused = code != 0
    if refused and file.name not in output and "belongs to study" not in output:
        trouble.found.append(f"unsaid: {code}, and {file.name} is not named: {output[-400:]}")
    if refused and not may_refuse:
        trouble.found.append(f"exits: {code} for damage to {file.name}: {output[-300:]}")
    if refused:
        shutil.copyfile(whole, file)
        code, output = commands(trouble, study, "run")["run"]
        if code != 0:
            trouble.found.append(f"exits: {code} with {file.name} given back: {output[-300:]}")
    for name, (code, printed) in commands(trouble, study, "show", "best").items():
        if code != 0:
            trouble.found.append(f"exits: {name} {code} at the end: {printed[-300:]}")
    named = str(file.relative_to(study.root)) in output  # and left to the user
    to_save_room = damaged is None and file.name == "checkpoint.pt"
    if _content(file) == damaged and (named or to_save_room):
        shutil.copyfile(whole, file)
    trouble.settle(study, attempts=ended)


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def damage(trouble: Trouble, file: Path, how: str, other: Path) -> Path:
    """Damages a file; returns a copy of what it was."""
    whole = trouble.folder / "whole"
    shutil.copyfile(file, whole)
    DAMAGES[how](file, other, trouble.random)
    trouble.inject(f"file {how}")
    return whole


def of_study(trouble: Trouble, begun: Path, name: str, how: str, other: Path | None = None) -> None:
    study = trouble.study(begun=begun)
    file = study.root / name
    whole = damage(trouble, file, how, other or file)
    recovers(trouble, study, file, whole, judge.ended(begun), name in OF_THE_STUDY)


def of_trial(trouble: Trouble, begun: Path, name: str, how: str, finished: bool) -> None:
    study = trouble.study(begun=begun)
    done = judge.ended(study.root)
    there = [trial for trial in judge.planned(study.root) if (study.root / "trials" / trial / name).exists()]
    which = trouble.random.choice([trial for trial in there if (trial in done) is finished])
    other = trouble.random.choice([trial for trial in there if trial != which])
    file = study.root / "trials" / which / name
    whole = damage(trouble, file, how, study.root / "trials" / other / name)
    recovers(trouble, study, file, whole, {trial: n for trial, n in done.items() if trial != which}, False)


def cases(*lists: tuple[str, ...]) -> list[object]:
    """Every file with every damage; all but a few are long."""
    pairs = [(name, how) for names in lists for name in names for how in DAMAGES]
    return [pytest.param(*pair, marks=[] if pair in SHORT else [pytest.mark.long]) for pair in pairs]


@pytest.mark.parametrize(("name", "how"), cases(OF_THE_STUDY, DERIVED))
def test_file_of_a_finished_study(trouble: Trouble, name: str, how: str) -> None:
    if how == "of another trial":
        other = trouble.reference("ablation").root / name
        of_study(trouble, trouble.reference("grid").root, name, how, other)
    else:
        of_study(trouble, trouble.reference("grid").root, name, how)


@pytest.mark.long
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", OF_A_TRIAL)
def test_file_of_a_trial_of_a_finished_study(trouble: Trouble, name: str, how: str) -> None:
    of_trial(trouble, trouble.reference("grid").root, name, how, finished=True)


@pytest.mark.long
@pytest.mark.parametrize("name", [*OF_THE_STUDY, *DERIVED])
def test_file_of_an_interrupted_study(trouble: Trouble, interrupted: Callable[[str], Path], name: str) -> None:
    begun = interrupted("grid")
    if not (begun / name).exists():
        pytest.skip(f"an interrupted study has no {name}")
    of_study(trouble, begun, name, trouble.random.choice([how for how in DAMAGES if how != "of another trial"]))


@pytest.mark.long
@pytest.mark.parametrize("name", OF_A_TRIAL)
def test_file_of_a_finished_trial_of_an_interrupted_study(
    trouble: Trouble, interrupted: Callable[[str], Path], name: str
) -> None:
    of_trial(trouble, interrupted("grid"), name, trouble.random.choice(sorted(DAMAGES)), finished=True)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(("checkpoint.pt", how) for how in DAMAGES),
        *((name, how) for name in SAVED[1:] for how in ("emptied", "garbage")),
    ],
)
def test_file_of_an_interrupted_trial(
    trouble: Trouble, interrupted: Callable[[str], Path], name: str, how: str
) -> None:
    of_trial(trouble, interrupted("grid"), name, how, finished=False)
