"""kill -9 of driver, actor, raylet and GCS, and of everything at once, at random moments."""

from __future__ import annotations

import time

import pytest

from tests.faults import judge, studies
from tests.faults.studies import EPOCHS, Command
from tests.faults.trouble import MOST_COMMANDS, Trouble

pytestmark = pytest.mark.ray

ALL = "everything"
SAID_WITHIN_S = 30.0


def strike(trouble: Trouble, command: Command, target: str) -> bool:
    """Kills at a random moment: amid the start, or after a random number of epochs; False where all was over before."""
    if trouble.random.random() < 0.25:
        until = time.monotonic() + trouble.random.uniform(0.0, 8.0)
        reached = command.wait_for(lambda: time.monotonic() > until)
    else:
        reached = command.epochs(trouble.random.randint(1, 2 * EPOCHS))
    if reached and target == ALL:
        command.kill_all()
        trouble.inject("kill -9 everything")
        return True
    return reached and command.wait_for(lambda: command.target(target) is not None) and trouble.kill(command, target)


def test_an_actor_dies_and_then_the_driver(trouble: Trouble) -> None:
    study = trouble.study()
    command = trouble.begin(study)
    assert command.epochs(trouble.random.randint(1, EPOCHS))
    assert trouble.kill(command, "actor")
    assert command.epochs(trouble.random.randint(1, EPOCHS)), "an actor is no reason to end"
    ended = judge.ended(study.root)
    assert trouble.kill(command, "driver")
    trouble.ended(command, study)
    trouble.goes_on(study)
    trouble.settle(study, attempts=ended)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(studies.STUDIES))
@pytest.mark.parametrize("target", ["driver", ALL])
def test_killed_again_and_again(trouble: Trouble, target: str, name: str) -> None:
    study = trouble.study(name)
    ended: dict[str, int] = {}
    for _ in range(2):
        command = trouble.begin(study)
        struck = strike(trouble, command, target)
        trouble.ended(command, study)
        ended |= judge.ended(study.root) if (study.root / "plan.parquet").exists() else {}
        if not struck:
            break
    trouble.goes_on(study)
    trouble.settle(study, attempts=ended)


@pytest.mark.long
def test_actors_die_and_the_study_goes_on_by_itself(trouble: Trouble) -> None:
    study = trouble.study()
    command = trouble.begin(study)
    for _ in range(3):
        strike(trouble, command, "actor")
    code, output = trouble.ended(command, study)
    if code != 0:
        trouble.found.append(f"exits: {code} although only actors died: {output[-400:]}")
    trouble.settle(study)


@pytest.mark.long
@pytest.mark.parametrize("target", ["raylet", "gcs"])
@pytest.mark.parametrize("number", [1, 2])
def test_ray_itself_dies(trouble: Trouble, target: str, number: int) -> None:
    """One sentence within 30 s, an exit code that is not 0, and the same command goes on."""
    study = trouble.study()
    command = trouble.begin(study)
    struck = strike(trouble, command, target)
    code, output = trouble.ended(command, study, SAID_WITHIN_S if struck else None)
    if struck and code not in (0, studies.NEVER):
        trouble.says_how_to_go_on(output)
    if struck and code < 0:
        trouble.found.append(f"exits: {code}, died of a signal instead of saying what happened: {output[-300:]}")
    trouble.goes_on(study, MOST_COMMANDS)
    trouble.settle(study)


@pytest.mark.long
def test_killed_while_the_teacher_trains(trouble: Trouble) -> None:
    study = trouble.study()
    (empty := trouble.folder / "empty").mkdir()
    command = trouble.begin(study, AKDTUNE_CACHE=str(empty))
    assert command.wait_for(lambda: any(empty.glob("teachers/*")))
    trouble.kill(command, "driver")
    trouble.ended(command, study)
    trouble.goes_on(study, AKDTUNE_CACHE=str(empty))
    trouble.settle(study, folders=[empty])
