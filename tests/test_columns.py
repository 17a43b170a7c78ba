"""columns.py: every column is declared where it is made, and what is declared reaches a study's tables."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akdtune.cli import declared_columns
from akdtune.columns import Column, Summary, declaration, joined
from akdtune.errors import AkdtuneError
from akdtune.records import tables, trial_summaries
from akdtune.records.files import (
    EPOCH_COLUMNS,
    EPOCHS,
    METRICS,
    TRIAL_COLUMNS,
    TRIALS,
    described,
    field_of,
    read_schema,
    read_table,
    trial_directory,
    write_rows,
)
from akdtune.registry import kept
from tests.declared_columns import JUDGED
from tests.study_fixture import StudyBuilder


def write(study: StudyBuilder, trial_id: str, values: Sequence[Any], *declared: Column, name: str = "own") -> None:
    """A trial's file with one column of its own, an epoch a value."""
    head = {"trial_id": trial_id, "attempt": 1, "val_accuracy": 50.0, "wall_time_s": 1.0}
    rows = [head | {"epoch": epoch, name: value} for epoch, value in enumerate(values, 1)]
    write_rows(trial_directory(study.path, trial_id) / EPOCHS, rows, declared=declared)


# ------------------------------------------------------------------------------------------------------ declarations


def test_a_declaration_by_its_name_or_by_how_it_begins() -> None:
    every, views = Column("loss.*", "", "any"), Column("loss.views.*", "", "of views")
    ce = Column("loss.ce", "nats", "cross-entropy", "none")
    columns = (every, ce, views)
    assert declaration("loss.ce", columns) == ce
    assert declaration("loss.views.x", columns) == replace(views, name="loss.views.x")
    assert declaration("loss.kd", columns) == replace(every, name="loss.kd")
    assert declaration("los", columns) is None
    assert declaration("loss.ce.more", (ce,)) is None


def test_one_column_is_declared_in_one_way() -> None:
    own = Column("own", "nats", "a number")
    assert joined((own,), (own, Column("other", "", "another"))) == (own, Column("other", "", "another"))
    with pytest.raises(AkdtuneError, match=r"column 'own' is declared in two ways: .*\(nats, last\).*\(nats, sum\)"):
        joined((own,), (replace(own, summary="sum"),))


def test_a_mistake_in_a_declaration_is_named() -> None:
    with pytest.raises(AkdtuneError, match="column 'own': summary: unknown summary 'maximum'"):
        Column("own", "", "a number", "maximum")  # type: ignore[arg-type]
    with pytest.raises(AkdtuneError, match="column 'own': teacher: unknown teacher 'yes'"):
        Column("own", "", "a number", teacher="yes")  # type: ignore[arg-type]


def test_what_a_file_says_comes_back() -> None:
    column = Column("own", "nats", "ä number", "min", "judged")
    field = field_of("own", pa.float64(), column)
    assert Column.of_metadata("own", field.metadata) == column
    assert Column.of_metadata("own", None) is None
    assert Column.of_metadata("own", {b"PARQUET:field_id": b"3"}) is None
    later = {b"akdtune.sentence": b"x", b"akdtune.summary": b"median", b"akdtune.teacher": b"half"}
    assert Column.of_metadata("own", later) == Column("own", "", "x", "last", "unread")


def test_every_column_of_every_study_is_declared() -> None:
    columns = declared_columns.declared()
    names = {*TRIAL_COLUMNS, *EPOCH_COLUMNS}
    assert [name for name in names if declaration(name, columns) is None] == []
    assert all(len(column.sentence) > 10 and not column.sentence.endswith(".") for column in columns)
    assert {"margin", "matched_temperature"} <= {column.name for column in columns}, "those of views are among them"
    whole = {column.name for column in tables.WHOLE_TRIAL_COLUMNS} - {"param.*"}
    assert whole | {"trial_id", *METRICS} == set(TRIAL_COLUMNS)


def test_files_from_before_declarations_have_the_same_summaries() -> None:
    columns = declared_columns.declared()
    for name in EPOCH_COLUMNS.keys() - {"trial_id", "attempt", "epoch", "lr"} | {"loss.ce", "loss.views.x"}:
        column = declaration(name, columns)
        assert column is not None
        assert trial_summaries.summary_of(pa.field(name, pa.float64())) == column.summary, name


def test_what_speaks_of_the_teacher() -> None:
    assert sorted(JUDGED) == sorted(
        """teacher_accuracy ensemble_accuracy target_accuracy target_entropy diversity_sq_prob diversity_sq_logit
        diversity_sq_feature diversity_ce diversity_pair_prob diversity_pair_logit diversity_pair_feature inter_cosine
        offset_cosine inter_cosine_prob offset_cosine_prob gate_open_eval gate_open_eval_logit""".split()
    )


# ------------------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize(
    ("summary", "value"), [("last", 5.0), ("max", 7.0), ("min", 1.0), ("mean", 13 / 3), ("sum", 13.0)]
)
def test_epochs_become_a_trial(tmp_path: Path, summary: Summary, value: float) -> None:
    study = StudyBuilder(tmp_path)
    own = Column("own", "nats", "a number of a plugin", summary)
    first, without = study.add("a/kd", 60.0, 0.2), study.add("b/kd", 61.0, 0.3)
    write(study, first, [1.0, 7.0, None, 5.0], own)
    table = tables.read_trials(study.write())
    assert table.column_names[-1] == "own"
    assert table["own"].to_pylist() == [pytest.approx(value), None], "a trial that measured none has none"
    assert own in described(table.schema)
    tables.compact(study.path)
    assert read_table(study.path / TRIALS).equals(table)
    assert own in described(tables.read_trials(study.path).schema)
    assert own in described(tables.read_epochs(study.path).schema)
    (study.path / TRIALS).unlink()
    for trial_id in (first, without):  # from the compacted rows alone
        (trial_directory(study.path, trial_id) / EPOCHS).unlink()
    assert tables.read_trials(study.path).equals(table)


def test_columns_that_only_epochs_have_and_text_stay_out(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    first, second, third = (study.add("a/kd", 60.0, 0.2) for _ in range(3))
    write(study, first, [1.0], Column("own", "", "only of an epoch", "none"))
    write(study, second, ["text"], name="words")
    write(study, third, [3.0], name="seed")
    table = tables.read_trials(study.write())
    assert table.column_names == list(TRIAL_COLUMNS)
    assert table["seed"].to_pylist() == [1, 1, 1], "a trial's own columns are not overwritten"
    assert {"own", "words", "seed"} <= set(tables.read_epochs(study.path).column_names)


def test_undeclared_numbers_are_those_of_the_last_epoch_behind_all_others(tmp_path: Path) -> None:
    study = StudyBuilder(tmp_path)
    write(study, study.add("a/kd", 60.0, 0.2, params={"views.margin": 0.3}), [1, 4, 2])
    table = tables.read_trials(study.write())
    assert table.column_names == [*TRIAL_COLUMNS, "param.views.margin", "own"]
    assert (table["own"].to_pylist(), str(table.schema.field("own").type)) == ([2], "int64")
    assert "own" not in {column.name for column in described(table.schema)}


def test_a_study_begun_before_declarations_goes_on(tmp_path: Path) -> None:
    """Its finished trials say nothing about their columns, those that follow do."""
    study = StudyBuilder(tmp_path)
    own = Column("own", "nats", "a number of a plugin", "max")
    before, after = study.add("a/kd", 60.0, 0.2), study.add("a/kd", 61.0, 0.3)
    write(study, before, [9, 3])
    tables.compact(study.write())
    assert tables.read_trials(tmp_path)["own"].to_pylist() == [3, None]
    write(study, after, [5.0, 4.0], own, Column("wall_time_s", "s", "time of the epoch", "sum"))
    table = tables.build_trials(tmp_path)
    assert table["own"].to_pylist() == [9.0, 5.0], "one rule for the whole study"
    assert table["wall_time_s"].to_pylist() == [2.0, 2.0]
    assert own in described(table.schema)
    tables.compact(tmp_path)
    assert tables.build_trials(tmp_path).equals(table)


def test_a_declaration_that_changed_within_a_study_counts_once_whatever_is_read_first(tmp_path: Path) -> None:
    own = Column("own", "nats", "a number of a plugin", "max")
    values = []
    for order in ((own, replace(own, summary="min")), (replace(own, summary="min"), own)):
        study = StudyBuilder(tmp_path / order[0].summary)
        first, second = study.add("a/kd", 60.0, 0.2), study.add("a/kd", 61.0, 0.3)
        write(study, first, [9.0, 3.0], order[0])
        write(study, second, [9.0, 3.0], order[1])
        values.append(tables.read_trials(study.write())["own"].to_pylist())
    assert values[0] == values[1]
    assert values[0] in ([9.0, 9.0], [3.0, 3.0])


def test_a_declared_column_is_of_numbers(tmp_path: Path) -> None:
    own = Column("own", "", "a number")
    write_rows(tmp_path / "rows.parquet", [{"own": None}], declared=(own,))
    assert str(read_schema(tmp_path / "rows.parquet").field("own").type) == "double"
    with pytest.raises(TypeError, match="column 'own' takes double or None"):
        write_rows(tmp_path / "rows.parquet", [{"own": "text"}], declared=(own,))


# ------------------------------------------------------------------------------------------------------------ trials

PLUGIN = '''
from akdtune.columns import Column
from akdtune.methods.kd import KD
from akdtune.registry import register
from akdtune.views.tekap import TeKAP


@register("perplexed")
class Perplexed(TeKAP):
    """TeKAP with a number of its own, that falls from epoch to epoch."""

    columns = (Column("perplexity", "nats", "how puzzled the views are", "max"),)

    def measures(self):
        self.asked = getattr(self, "asked", 10) - 1
        return {"perplexity": float(self.asked), "unspoken": float(self.asked)}


@register("counting")
class Counting(KD):
    """KD that counts epochs."""

    columns = (Column("counted", "", "epochs that it was asked about", "sum"),)

    def measures(self):
        return {"counted": 1.0}

    def terms(self, student, target, batch):
        return {"counting": super().terms(student, target, batch)["kd"]}

    def weights(self, epoch):
        return {"counting": super().weights(epoch)["kd"]}
'''
STUDY = """
study: small
plugins: [perplexed_plugin]
data: {name: digits, validation: 600, label_noise: {fraction: 0.2}}
teacher: {network: {name: cnn, widths: [4, 8]}, epochs: 1}
student: {network: {name: cnn, widths: [2, 4]}}
views: {choice: [{name: angular, variant: constrained, warmup_epochs: 1, num_views: 2}, {name: perplexed}]}
method: {choice: [[kd, crd], [counting, crd]]}
training: {epochs: 3, batch_size: 64}
search: {algorithm: random, trials: 4}
scheduler: {name: none}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study directory whose trials a worker has written: built-in views and methods, and those of a plugin."""
    from akdtune.cli import one_trial
    from akdtune.running.worker import execute
    from akdtune.study import spec

    folder = tmp_path_factory.mktemp("columns")
    (folder / "perplexed_plugin.py").write_text(PLUGIN)
    (folder / "small.yaml").write_text(STUDY)
    path = list(sys.path)
    with pytest.MonkeyPatch.context() as patch, kept():
        patch.chdir(folder)
        loaded = spec.load("small.yaml")
        directory = StudyBuilder(folder / "run")
        for arm in ("angular/kd+crd", "perplexed/counting+crd"):
            trial = one_trial.of_study(loaded, arm, seed=1)
            of_worker = replace(trial, root=str(folder / "run"), tracking={"wandb": None}, stop_flag=".stop")
            assert execute(of_worker, lambda _: None, lambda: False)["outcome"] == "done"
            directory.plan.append(
                {"number": len(directory.plan), "trial_id": trial.trial_id, "cell_id": trial.cell_id, "seed": 1,
                 "role": "search", "arm": arm, "bracket": arm, "params": {}, "settings": {}, "raw": {}}
            )  # fmt: skip
            directory.event("done", trial.trial_id, epoch=3)
        tables.compact(directory.write())
        yield folder / "run"
    sys.modules.pop("perplexed_plugin", None)
    sys.path[:] = path


def test_every_column_of_a_trial_is_declared(study: Path) -> None:
    known = declared_columns.declared()
    for file in (study / "trials").glob("*/epochs.parquet"):
        schema = read_schema(file)
        names = set(schema.names) - {"unspoken"}
        assert {column.name for column in described(schema)} == names
        assert [name for name in names if declaration(name, known) is None] == []
    trials = read_schema(study / TRIALS)
    unread = {"unspoken", "test_accuracy"}  # declared by nobody; measured by none of these trials
    assert {column.name for column in described(trials)} == set(trials.names) - unread


def test_a_plugins_own_column_reaches_the_trials(study: Path) -> None:
    rows = {row["arm"]: row for row in pq.read_table(study / TRIALS).to_pylist()}
    own, other = rows["perplexed/counting+crd"], rows["angular/kd+crd"]
    assert (own["perplexity"], own["counted"], own["unspoken"], own["margin"]) == (9.0, 3.0, 7.0, None)
    assert (other["perplexity"], other["counted"], other["unspoken"], other["margin"]) == (None, None, None, 0.2)
    assert not any(name.startswith("loss.") for name in own)
    (column,) = [column for column in described(tables.read_epochs(study).schema) if column.name == "perplexity"]
    assert column == Column("perplexity", "nats", "how puzzled the views are", "max", section="views")


def test_it_is_read_where_there_is_neither_the_plugin_nor_torch(study: Path, tmp_path: Path) -> None:
    code = (
        "import sys, json; sys.modules['torch'] = None\n"
        "from akdtune import cli; from akdtune.records import files, tables\n"
        f"table = tables.build_trials({str(study)!r})\n"
        "said = {c.name: [c.unit, c.sentence, c.summary] for c in files.described(table.schema)}\n"
        "print(json.dumps([table['perplexity'].to_pylist(), said['perplexity'], said['diversity_ce'][0]]))\n"
        f"cli.main(['show', {str(study)!r}, '--sort', 'perplexity', '--csv'])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    first, header, *lines = run.stdout.splitlines()
    assert json.loads(first) == [[None, 9.0], ["nats", "how puzzled the views are", "max"], ""]
    names, values = header.split(","), lines[0].split(",")
    assert names[names.index("counted") :] == [
        "counted", "perplexity", "right_agree", "right_differ", "teacher_cosine", "teacher_cosine_prob", "train_loss",
        "unspoken", "wrong_agree", "wrong_differ",
    ], "by name"  # fmt: skip
    held = dict(zip(names, values, strict=True))
    assert (held["counted"], held["perplexity"], held["unspoken"]) == ("3.0", "9.0", "7.0")
