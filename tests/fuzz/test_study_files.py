"""Study directories whose files hold anything: a result or one of our errors, never a traceback.

The short form runs with every test; `AKDTUNE_FUZZ=N` tries N damages a file.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from akdtune.cli import browse
from akdtune.cli.tables import print_trials
from akdtune.errors import AkdtuneError, AkdtuneWarning
from akdtune.records import tables
from akdtune.records.lock_file import check_lock, read_lock
from akdtune.records.plan_file import read_plan
from akdtune.records.study_directory import StudyDirectory
from akdtune.reports import answers, comparison
from akdtune.reports.origin import origin_of
from akdtune.reports.results import Results
from akdtune.reports.trials.best import bests
from akdtune.reports.trials.cell_means import cell_means, tally
from akdtune.running.mending import mend
from akdtune.running.saved_states import resumed, save_state
from tests.study_fixture import StudyBuilder

EXAMPLES = int(os.environ.get("AKDTUNE_FUZZ", "4"))
SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
PROFILE = settings(
    max_examples=EXAMPLES, derandomize="AKDTUNE_FUZZ" not in os.environ, deadline=None, database=None,
    suppress_health_check=SUPPRESSED,
)  # fmt: skip

FILES = [
    "ledger.jsonl", "plan.parquet", "study.lock.yaml", "design.json", "trials.parquet", "epochs.parquet",
    "trials/t00000/epochs.parquet", "trials/t00000/outcome.json", "trials/t00000/predictions.parquet",
    "trials/t00000/checkpoint.pt", "trials/t00000/attempts/1.json",
]  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study that has finished, with every file that there may be."""
    study = StudyBuilder(tmp_path_factory.mktemp("fuzz") / "study")
    study.cell("base", [60.0, 61.0], predictions=40)
    study.cell("other", [58.0, 60.0], predictions=40)
    for number in range(2):
        study.add("angular/kd", 50.0 + number, 0.1 * number, role="search", params={"views.margin": 0.1 * number})
    study.add("none/kd", 40.0, 0.1, role="search", status="pruned")
    study.add("none/kd", 40.0, 0.1, role="search", status="interrupted")
    study.lock = {
        "akdtune": "0.1.0", "uid": "abc", "source": "s.yaml", "overrides": [], "arms": ["angular/kd", "none/kd"],
        "settings": {"study": "s", "search": {"algorithm": "random", "objectives": ["accuracy"]}},
        "data": {"hash": "1"}, "packages": {"torch": "2"}, "machine": {"python": "3"},
        "teacher": {"path": "", "key": "", "weights_hash": "none", "network": "none", "val_accuracy": None,
                    "test_accuracy": None, "saw_validation": False},
    }  # fmt: skip
    root = study.write()
    directory = StudyDirectory(root)
    for plan in study.plan:
        trial = directory.trial(plan["trial_id"])
        trial.take_attempt()
        trial.close_attempt()
        rows = trial.read_rows()
        save_state(trial, plan["trial_id"], {"stage": "student", "epoch": len(rows)}, rows)
        trial.write_outcome({"outcome": "done", "epoch": len(rows), "streams": 2})
    for number in (6, 7):
        directory.trial(f"t{number:05d}").outcome.unlink()
    tables.compact(root)
    return root


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "study"


def checked(root: Path) -> None:
    with StudyDirectory(root).opened() as directory:
        lock = directory.read_lock()
        if lock is not None:
            check_lock(root, lock)
        directory.reconcile()
        mend(directory)
        for record in directory.unfinished():
            resumed(directory.trial(record.trial_id), record.trial_id)
        tables.compact(root)


def shown(root: Path) -> None:
    rows, columns = browse.read_trials(root)
    kept = browse.Filter(top=3).apply(rows, columns)
    tally(kept)
    browse.means_as_csv(cell_means(rows, browse.column_named(browse.judged_by(rows), columns, rows)))
    browse.as_csv(rows, columns)
    print_trials(kept, columns)
    browse.pilot_lines(root)


READERS: dict[str, Callable[[Path], object]] = {
    "show": shown,
    "pareto": lambda root: browse.objectives(root),
    "best": lambda root: [best.sentences for best in bests(browse.read_trials(root)[0])],
    "results": lambda root: (Results(root).best(), Results(root).epochs, repr(Results(root))),
    "ablation": lambda root: answers.compared(root, "ablation"),
    "diversity": lambda root: answers.diversity_in(root, draws=100, seed=0),
    "compare": lambda root: comparison.lock_differences(comparison.read_side(root), comparison.read_side(root)),
    "origin": lambda root: str(origin_of(root)),
    "lock": read_lock,
    "plan": read_plan,
    "again": checked,
    "after": shown,
}


def read_everything(root: Path) -> None:
    for name, read in READERS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AkdtuneWarning)
                read(root)
        except AkdtuneError:
            pass  # it names the file
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error


def fresh(template: Path, root: Path, without_views: bool = False) -> None:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root)
    if without_views:
        for name in ("trials.parquet", "epochs.parquet"):
            (root / name).unlink()


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@PROFILE
def test_bytes_that_changed(template: Path, study: Path, name: str, data: st.DataObject) -> None:
    """Cut, overwritten in places, or anything at all."""
    fresh(template, study, data.draw(st.booleans(), "without views") and name.startswith(("trials/", "plan", "ledger")))
    content = bytearray((study / name).read_bytes())
    how = data.draw(st.sampled_from(["cut", "flip", "any", "insert", "zeros"]), "how")
    place = data.draw(st.integers(0, max(0, len(content) - 1)), "place")
    if how == "cut":
        del content[place:]
    elif how == "any":
        content[:] = data.draw(st.binary(max_size=200))
    elif how == "insert":
        content[place:place] = data.draw(st.binary(min_size=1, max_size=20))
    elif how == "zeros":
        content[place:] = bytes(len(content) - place)
    else:
        for at in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), min_size=1, max_size=4), "bits"):
            content[at] ^= 1 << data.draw(st.integers(0, 7))
    (study / name).write_bytes(content)
    read_everything(study)


def paths_of(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a tree of JSON."""
    yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from paths_of(value, (*path, key))


def changed(node: Any, path: tuple[Any, ...], data: st.DataObject) -> Any:
    """A tree in which something is another thing, or gone."""
    if not path:
        return data.draw(JSON, "instead")
    node = dict(node) if isinstance(node, dict) else list(node)
    if len(path) == 1 and data.draw(st.booleans(), "gone"):
        del node[path[0]]
    else:
        node[path[0]] = changed(node[path[0]], path[1:], data)
    return node


@pytest.mark.parametrize(
    "name", ["study.lock.yaml", "design.json", "trials/t00000/outcome.json", "trials/t00000/attempts/1.json"]
)
@given(data=st.data())
@PROFILE
def test_json_of_another_shape(template: Path, study: Path, name: str, data: st.DataObject) -> None:
    fresh(template, study)
    held = yaml.safe_load((study / name).read_text())
    path = data.draw(st.sampled_from(list(paths_of(held))), "path")
    (study / name).write_text(json.dumps(changed(held, path, data)))
    read_everything(study)


@given(data=st.data())
@PROFILE
def test_lines_of_the_ledger_of_another_shape(template: Path, study: Path, data: st.DataObject) -> None:
    fresh(template, study, without_views=True)
    lines = (study / "ledger.jsonl").read_text().splitlines()
    plan = read_plan(study)[0] | {"trial_id": "t9"}
    lines += [
        json.dumps({"time": 1.0, "event": "planned", "trial_id": "t9", "plan": plan}),
        json.dumps({"time": 1.0, "event": "rung", "trial_id": "t00000", "epoch": 1, "rung": 1, "value": 1.0,
                    "cutoff": None, "decision": "CONTINUE", "bracket": "x"}),
        json.dumps({"time": 1.0, "event": "pilot", "bracket": "x", "trials": 3, "threshold": 0.5,
                    "rungs": [{"rung": 1, "n": 3, "rho": 0.1}]}),
        json.dumps({"time": 1.0, "event": "retried", "trial_id": "t00001", "ended": "done"}),
    ]  # fmt: skip
    for _ in range(data.draw(st.integers(1, 3), "lines")):
        number = data.draw(st.integers(0, len(lines) - 1), "line")
        held = json.loads(lines[number])
        path = data.draw(st.sampled_from(list(paths_of(held))), "path")
        lines[number] = json.dumps(changed(held, path, data))
    (study / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    read_everything(study)


@pytest.mark.parametrize("name", ["plan.parquet", "trials.parquet", "epochs.parquet", "trials/t00000/epochs.parquet"])
@given(data=st.data())
@PROFILE
def test_tables_of_another_shape(template: Path, study: Path, name: str, data: st.DataObject) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fresh(
        template, study, data.draw(st.booleans(), "without views") and name not in ("trials.parquet", "epochs.parquet")
    )
    table = pq.read_table(study / name)
    how = data.draw(st.sampled_from(["drop", "retype", "other", "rows", "rename"]), "how")
    column = data.draw(st.integers(0, table.num_columns - 1), "column")
    field = table.schema.field(column)
    if how == "drop":
        table = table.remove_column(column)
    elif how == "rename":
        table = table.rename_columns([f"x{n}" if n == column else c for n, c in enumerate(table.column_names)])
    elif how == "retype":
        value = data.draw(st.sampled_from([1, "x", 2.5, None, [1], {"a": 1}, True, b"\xff"]), "value")
        table = table.set_column(column, field.name, pa.array([value] * table.num_rows))
    elif how == "rows":
        table = pa.concat_tables([table, table]) if data.draw(st.booleans(), "twice") else table.slice(1)
    else:
        table = pq.read_table(
            study / data.draw(st.sampled_from(["plan.parquet", "trials/t00001/epochs.parquet"]), "of")
        )
    (study / name).unlink()
    pq.write_table(table, study / name)
    read_everything(study)
