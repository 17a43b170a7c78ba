"""`akdtune.load`: tables, best trials, curves and analyses of a study, finished or not, as values and figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

import akdtune
from akdtune import cli
from akdtune.cli.declared_columns import declared
from akdtune.errors import AkdtuneError, StudyError
from akdtune.records import tables
from akdtune.records.files import EPOCHS, read_rows, trial_directory, write_rows
from akdtune.reports.ablation import tables as ablation_tables
from akdtune.reports.ablation.measured import phases_of
from akdtune.reports.curves import SURVIVORS
from akdtune.reports.results import Results
from tests.study_fixture import StudyBuilder
from tests.test_unchanged import beside_the_reference

ODD = "angular/<b>"


@pytest.fixture
def builder(tmp_path: Path) -> StudyBuilder:
    return StudyBuilder(tmp_path / "runs" / "small")


@pytest.fixture
def results(builder: StudyBuilder) -> Results:
    """A study of two arms with probes, a search, an ablation, and a trial that is running."""
    builder.add_many("angular/kd", [(0.1 * i, 60.0 + i % 7) for i in range(14)], params={"views.margin": 0.2})
    builder.declared = declared()
    builder.add("angular/kd", 61.0, 0.3, role="search", epochs=3, params={"views.margin": 0.3})
    builder.add(ODD, 64.0, 0.3, role="search", seed=2, params={"views.margin": 0.4})
    builder.add(ODD, 99.0, 0.3, role="search", status="pruned")
    builder.add(ODD, None, None, role="search", status="running")
    builder.cell("base", [70.0, 71.0, 72.0])
    builder.cell("<i>", [68.0, 69.5, 70.0])
    builder.design["ablation"]["reference"] = "base"
    return akdtune.load(builder.write(finished=False))


def shown_in(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


class TestLoad:
    def test_by_name_and_by_path(self, results: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        assert akdtune.load("small").directory == akdtune.load(Path("runs/small")).directory == Path("runs/small")
        with pytest.raises(StudyError, match="smal: no such study directory; did you mean 'runs/small'"):
            akdtune.load("smal")

    def test_shows_itself_briefly(self, results: Results, builder: StudyBuilder) -> None:
        counts = "24 trials: 1 running, 22 done, 1 pruned; 49 epochs; arms: angular/kd, angular/"
        assert repr(results) == f"results of {builder.path}: {counts}<b>"
        assert results._repr_html_() == f"results of {builder.path}: {counts}&lt;b&gt;"

    def test_a_study_that_has_not_begun(self, builder: StudyBuilder) -> None:
        builder.lock = {"settings": {"study": "small"}}
        results = akdtune.load(builder.write())
        assert repr(results) == f"results of {builder.path}: 0 trials; 0 epochs; arms: none"
        assert results.settings == {"study": "small"}
        with pytest.raises(StudyError, match="no trial has reached its last epoch yet \\(0 trials\\)"):
            results.best()
        with pytest.raises(StudyError, match="small: no trial has a value of val_accuracy yet"):
            results.curves()


class TestTables:
    def test_are_arrow_tables_of_trials_and_epochs(self, results: Results, builder: StudyBuilder) -> None:
        assert isinstance(results.trials, pa.Table)
        assert results.trials.equals(tables.read_trials(builder.path))
        assert results.epochs.equals(tables.read_epochs(builder.path))
        assert results.trials is results.trials, "read once"

    def test_every_column_that_holds_something_is_described(self, results: Results) -> None:
        columns, both = results.columns, (results.trials, results.epochs)
        assert set(columns) == {*results.trials.column_names, *results.epochs.column_names}
        empty = [name for name, column in columns.items() if not column.sentence]
        held = {name for table in both for name in table.column_names if table[name].null_count < table.num_rows}
        assert held & set(empty) <= {"warmup_time_s"}, "which these trials have not written"
        assert "not described" in str(columns[empty[0]])
        accuracy, loss = columns["val_accuracy"], columns["loss.ce"]
        assert (accuracy.kind, accuracy.unit, accuracy.tables) == ("double", "percent", ("trials", "epochs"))
        assert (loss.unit, loss.tables) == ("nats", ("epochs",))
        assert columns["param.views.margin"].sentence == "the searched setting of this key path"
        assert str(columns["wall_time_s"]).startswith("wall_time_s [s] (double, in trials and epochs): time of")
        assert repr(columns).count("\n") == len(columns) - 1

    def test_a_column_that_nobody_describes(self, builder: StudyBuilder) -> None:
        builder.add("angular/kd", 50.0, None, **{"<perplexity>": 2.0})
        columns = akdtune.load(builder.write()).columns
        assert (columns["<perplexity>"].unit, columns["<perplexity>"].sentence) == ("", "")
        assert "<td>&lt;perplexity&gt;</td>" in columns._repr_html_()
        with pytest.raises(AkdtuneError, match="unknown column 'val_acuracy'; did you mean 'val_accuracy'"):
            columns["val_acuracy"]


class TestBest:
    def test_of_all_arms_and_of_one(self, results: Results) -> None:
        best = results.best(role="search")
        assert (best.id, best.arm, best.seed, best.accuracy) == ("t00015", ODD, 2, 64.0)
        assert (best.role, best.metric) == ("search", "val_accuracy")
        assert (best.settings, best.searched) == ({"views": {"name": "angular"}}, {"views.margin": 0.4})
        assert results.best("angular/kd", role="search").accuracy == 61.0
        assert repr(best) == f"t00015 of {ODD}, seed 2: 64.00 % on validation images; views.margin=0.4"
        assert "angular/&lt;b&gt;" in best._repr_html_()
        assert ODD not in best._repr_html_()

    def test_of_every_role(self, results: Results) -> None:
        best = results.best()
        assert (best.id, best.role, best.accuracy) == ("t00006", "probe", 66.0)
        assert repr(best).startswith("probe t00006 of angular/kd, seed 1: 66.00 % on validation images;")
        assert "best probe trial" in best._repr_html_()
        best = results.best(role="ablation")
        assert (best.id, best.metric, best.accuracy) == ("t00020", "test_accuracy", 72.0)
        assert "72.00 % on test images" in repr(best)

    def test_an_unknown_role(self, results: Results) -> None:
        with pytest.raises(AkdtuneError, match="unknown role 'serach'; did you mean 'search'"):
            results.best(role="serach")

    def test_an_unknown_arm(self, results: Results) -> None:
        with pytest.raises(AkdtuneError, match="unknown arm 'angular/kdd'; did you mean 'angular/kd'"):
            results.best("angular/kdd")

    def test_none_yet(self, builder: StudyBuilder) -> None:
        builder.add("angular/kd", 50.0, None, role="search", status="running")
        builder.add("angular/kd", 60.0, None, role="confirm")
        with pytest.raises(
            StudyError, match=r"no search trial of angular/kd has .* yet \(2 trials: 1 running, 1 done\)"
        ):
            akdtune.load(builder.write(finished=False)).best("angular/kd")


class TestCurves:
    def test_values_by_trial(self, results: Results) -> None:
        curves = results.curves(role="search")
        assert (curves.column, curves.unit, curves.arms) == ("val_accuracy", "percent", ["angular/kd", ODD])
        (of_kd,) = curves.of("angular/kd")
        assert (of_kd.trial_id, of_kd.status, of_kd.epochs.tolist(), of_kd.values.tolist()) == (
            "t00014", "done", [1, 2, 3], [10.0, 10.0, 61.0]
        )  # fmt: skip
        assert [curve.trial_id for curve in curves.of(ODD)] == ["t00015", "t00016", "t00017"]
        assert len(results.curves(arm="angular/kd").trials) == 14 + 1 + 6
        assert repr(curves) == f"curves of val_accuracy in small: 4 trials of angular/kd, {ODD}"
        assert "&lt;b&gt;" in curves._repr_html_()

    def test_of_an_epoch_that_ran_twice_the_later_attempt_counts(self, builder: StudyBuilder) -> None:
        file = trial_directory(builder.path, builder.add("angular/kd", 50.0, None)) / EPOCHS
        rows = read_rows(file)
        write_rows(file, [{**rows[1], "attempt": 2, "val_accuracy": 55.0}, *rows])
        (curve,) = akdtune.load(builder.write()).curves().trials
        assert (curve.epochs.tolist(), curve.values.tolist()) == ([1, 2], [10.0, 55.0])

    def test_a_mean_over_those_that_went_on_is_called_so(self, builder: StudyBuilder) -> None:
        for epochs, status in ((4, "done"), (2, "pruned")):
            builder.add("angular/kd", 50.0, None, role="search", epochs=epochs, status=status)
        assert SURVIVORS in shown_in(akdtune.load(builder.write()).curves().figure())

    def test_a_mean_over_all_needs_no_such_note(self, builder: StudyBuilder) -> None:
        for _ in range(2):
            builder.add("angular/kd", 50.0, None, role="search")
        assert SURVIVORS not in shown_in(akdtune.load(builder.write()).curves().figure())

    def test_a_line_per_trial_and_one_per_arm(self, results: Results) -> None:
        figure = results.curves(role="search").figure()
        assert isinstance(figure, Figure)
        (axis,) = figure.axes
        assert len(axis.lines) == 4 + 2
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("epoch", "val accuracy (percent)")
        mean = next(line for line in axis.lines if line.get_label() == f"{ODD} (n = 3)")
        assert mean.get_ydata()[-1] == pytest.approx((64 + 99) / 2), "the running trial has no value there"
        assert figure._repr_png_().startswith(b"\x89PNG")

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            ({"column": "val_acuracy"}, "unknown column of epochs 'val_acuracy'; did you mean 'val_accuracy'"),
            ({"column": "trial_id"}, "unknown column of epochs 'trial_id'"),
            ({"arm": "angular/k"}, "unknown arm 'angular/k'; did you mean 'angular/kd'"),
            ({"role": "probes"}, "unknown role 'probes'; did you mean 'probe'"),
            ({"column": "margin", "role": "probe"}, "small: no probe trial has a value of margin yet"),
        ],
    )
    def test_what_is_not_there(self, results: Results, wanted: dict[str, Any], message: str) -> None:
        with pytest.raises(AkdtuneError, match=message):
            results.curves(**wanted)


class TestAblation:
    def test_findings_are_those_of_the_analysis(self, results: Results, builder: StudyBuilder) -> None:
        compared = results.ablation()
        (phase,) = phases_of(builder.path)
        assert compared.findings == ablation_tables.compute(phase, builder.path).findings
        assert compared.findings[0].difference.difference == pytest.approx((-2 - 1.5 - 2) / 3)
        assert compared.sentences[0].startswith("<i>: ")
        assert compared.effects == []
        assert results.ablation(reference="<i>").findings[0].cell.name == "base"
        assert results.ablation(metric="val_accuracy", alpha=0.1).result.alpha == 0.1
        assert "| base | 3 | 71.00" in repr(compared)
        assert "<td>&lt;i&gt;</td>" in compared._repr_html_()

    def test_figures_by_name(self, results: Results) -> None:
        compared = results.ablation()
        assert compared.figures == ["ablation"]
        assert isinstance(compared.figure(), Figure)
        with pytest.raises(AkdtuneError, match="unknown figure 'ablations'; did you mean 'ablation'"):
            compared.figure("ablations")

    def test_what_is_missing_is_named(self, builder: StudyBuilder) -> None:
        builder.add("angular/kd", 50.0, None)
        with pytest.raises(StudyError, match=r"has no design\.json: this study has no `ablation` and no `confirm`"):
            akdtune.load(builder.write()).ablation()
        builder.cell("angular/kd #1", [70.0, 71.0], phase="confirm", search_score=75.0)
        results = akdtune.load(builder.write())
        with pytest.raises(StudyError, match=r"has no ablation: .* no `ablation` section.*\(it has: confirmation\)"):
            results.ablation()
        assert results.confirmation().figures == ["winners_curse"]
        assert isinstance(results.confirmation().figure("winners_curse"), Figure)

    def test_an_alpha_that_is_no_error_rate(self, results: Results) -> None:
        with pytest.raises(AkdtuneError, match="alpha: 5 is no error rate"):
            results.ablation(alpha=5)

    def test_nothing_to_draw_yet(self, builder: StudyBuilder) -> None:
        builder.cell("base", [70.0], statuses={0: "running"})
        builder.cell("other", [70.0], statuses={0: "running"})
        builder.design["ablation"]["reference"] = "base"
        compared = akdtune.load(builder.write(finished=False)).ablation()
        assert any("not finished: 2 of 2" in line for line in compared.sentences)
        with pytest.raises(StudyError, match="small: nothing to draw: no cell has finished a seed"):
            compared.figure()


class TestDiversity:
    def test_relations_of_each_panel(self, results: Results) -> None:
        said = results.diversity(draws=100)
        assert [panel.name for panel in said.panels] == ["probe", "search", "report"]
        assert said.counts == {"done": 22, "pruned": 1, "running": 1}
        relation = said.relations["probe"][0]
        assert relation.estimates["pooled"].n == 14
        assert said.verdict.startswith("no association resolved within arms; these 14 cells find a true |r| of 0.76 ")
        assert said.sentences[0] == said.verdict == said.report()["verdict"]
        assert [line.split(":")[0] for line in said.sentences[1:]] == ["search survivors", "report trials"]
        assert said.report()["panels"]["probe"]["finished"] == 14
        assert repr(said).startswith(f"{said.verdict}\n\n| measure |")
        assert said._repr_html_().count("<tr>") == 1 + 4

    def test_figure(self, results: Results) -> None:
        said = results.diversity(draws=100)
        assert isinstance(said.figure(), Figure)
        assert [len(figure.axes) for figure in (said.figure(), said.figure("probe"))] == [3 * 4, 4]
        with pytest.raises(AkdtuneError, match="unknown panel 'probes'; did you mean 'probe'"):
            said.figure("probes")

    def test_none_yet(self, builder: StudyBuilder) -> None:
        builder.add("angular/kd", 50.0, 0.1, status="running")
        with pytest.raises(StudyError, match=r"no probe, search or report trial has finished yet \(1 running\)"):
            akdtune.load(builder.write(finished=False)).diversity()

    def test_too_few_draws(self, results: Results) -> None:
        with pytest.raises(AkdtuneError, match="draws: 9 is too few"):
            results.diversity(draws=9)


class TestFigures:
    def test_have_a_style_of_their_own(self, results: Results) -> None:
        plain = results.curves(role="search").figure()._repr_png_()
        with mpl.rc_context({"font.size": 30, "axes.spines.top": True}):
            assert results.curves(role="search").figure()._repr_png_() == plain

    def test_of_a_report_are_saved_after_they_were_shown(self, results: Results, tmp_path: Path) -> None:
        figure = results.curves().figure()
        figure._repr_png_()
        figure.savefig(tmp_path / "curves.svg")
        assert "<text" in (tmp_path / "curves.svg").read_text(), "text as text, as in the reports"


class TestReference:
    """A study that was run and analysed before."""

    @pytest.fixture
    def reference(self, tmp_path: Path) -> Any:
        with beside_the_reference(tmp_path):
            yield akdtune.load("reference")

    def test_says_what_the_analyses_say(self, reference: Results) -> None:
        assert [cli.main(["analyze", name, "reference"]) for name in ("diversity_accuracy", "ablation")] == [0, 0]
        folder = Path("runs/reference/reports")
        written = {
            name: json.loads((folder / f"{name}.json").read_text()) for name in ("diversity_accuracy", "ablation")
        }
        origin = reference.origin.report()
        assert json.loads(json.dumps(reference.diversity().report() | origin)) == written["diversity_accuracy"]
        parts = [reference.ablation().result, reference.confirmation().result]
        assert json.loads(json.dumps(ablation_tables.report_of(parts) | origin)) == written["ablation"]

    def test_tables_and_best(self, reference: Results) -> None:
        assert (reference.trials.num_rows, reference.counts()) == (33, {"done": 30, "pruned": 3})
        assert reference.best("angular/kd").id == "6b2e4e4c8ed4-s0"
        assert reference.best().settings["method"][0]["weight"] == reference.best().searched["method.kd.weight"]
        with pytest.raises(StudyError, match="without it there is no trained student of trial 6b2e4e4c8ed4-s0"):
            reference.best().student()

    def test_loads_neither_torch_nor_ray_and_gives_pandas(self, reference: Results) -> None:
        code = """
import sys, akdtune
results = akdtune.load("reference")
frame = results.trials.to_pandas()
print(type(frame).__module__.split(".")[0], frame.val_accuracy.dtype, len(results.epochs.to_pandas()))
results.best(), results.columns, results.curves().figure(), results.ablation().figure(), results.diversity(draws=100)
print([name for name in ("torch", "ray", "optuna", "wandb", "matplotlib.pyplot") if name in sys.modules])
"""
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
        assert done.stdout == "pandas float64 125\n[]\n", done.stderr
