"""The table of a paper: studies joined, the best marked only where it is resolved, and what stands below."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy.stats import ttest_ind, ttest_rel

from akdtune.cli import main
from akdtune.errors import AkdtuneError, StudyError
from akdtune.reports.paper import forms
from akdtune.reports.paper.leading import leading
from akdtune.reports.paper.table import PaperTable, table_of
from akdtune.reports.paper.terminal import print_table
from akdtune.reports.text import Strong
from tests.study_fixture import StudyBuilder, cell_id

SUPERIOR = [74.0, 74.3, 73.8, 74.1, 74.2]
MIDDLE = [72.0, 72.4, 71.8, 72.2, 72.1]


def lock(teacher: str = "resnet56", student: str = "resnet20", **changed: Any) -> dict[str, Any]:
    """What a study's lock says, as far as a table asks for it; `changed` are training's settings, or `data`."""
    data = {"name": "cifar100", "root": "/data", **changed.pop("data", {})}
    settings = {
        "study": "s", "search": {}, "data": data, "teacher": {"network": {"name": teacher}},
        "student": {"network": {"name": student}}, "training": {"epochs": 240, "batch_size": 64, **changed},
    }  # fmt: skip
    return {
        "akdtune": "1.0", "packages": {"torch": "2.5"}, "source": "study.yaml", "settings": settings,
        "data": {"hash": "a1b2c3"},
        "teacher": {"path": "t.pt", "test_accuracy": 72.34, "val_accuracy": 70.0},
    }  # fmt: skip


def study(path: Path, cells: Mapping[str, list[float | None]], **options: Any) -> Path:
    """A study of named methods with seeds 0, 1, ...; `student_only` is a cell without a teacher."""
    held = options.pop("lock", None) or lock()
    built = StudyBuilder(path)
    built.lock = held
    for name, values in cells.items():
        options.setdefault("arm", None)
        arm = options["arm"] or f"none/{name}"
        built.cell(name, values, **{**options, "arm": arm})
    return built.write()


def texts(table: PaperTable) -> dict[str, list[str]]:
    """The cells of each row by its name."""
    return {row[0]: row[1:] for rows in table.groups().values() for row in rows}


def printed(table: PaperTable, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), markup=False, highlight=False)
    print_table(console, table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


# ------------------------------------------------------------------------------------------------- joining


def test_pairs_are_columns_methods_rows_teacher_and_student_above(tmp_path: Path) -> None:
    first = study(
        tmp_path / "a", {"student_only": [69.0, 69.2, 69.1], "kd": [70.0, 70.4, 70.2], "dkd": [71.0, 71.3, 71.2]}
    )
    second = study(
        tmp_path / "b", {"kd": [66.0, 66.2, 66.4], "crd": [67.0, 67.5, 67.1]}, lock=lock("wrn_40_2", "wrn_16_2")
    )
    table = table_of([first, second])
    assert table.heads == [
        ["resnet56", "→ resnet20", "test, n = 3"],
        ["wrn_40_2", "→ wrn_16_2", "test, n = 3"],
    ]
    rows = texts(table)
    assert list(rows) == ["teacher", "student, alone", "kd", "dkd", "crd"]
    assert rows["teacher"] == ["72.34", "72.34"]
    assert rows["student, alone"] == ["69.10 ± 0.10", "–"]
    assert rows["kd"][0].startswith("70.20 ± 0.20") and rows["kd"][1].startswith("66.20 ± 0.20")
    assert rows["crd"][0] == "–", "a method that a pair lacks"
    assert any("no row 'student, alone'" in note and "wrn_40_2 → wrn_16_2" in note for note in table.notes)


def test_networks_and_sets_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = []
    for name, width, data in (("a", [4, 8], {}), ("b", [8, 16], {}), ("c", [4, 8], {"fraction": 0.25})):
        held = lock(data=data)
        held["settings"]["student"]["network"] = {"name": "cnn", "widths": width}
        runs.append(study(tmp_path / name, {"kd": [70.0, 71.0]}, lock=held))
    heads = [" ".join(lines[:-1]) for lines in table_of(runs).heads]
    assert heads == [
        "cifar100: resnet56 → cnn[4,8]",
        "cifar100: resnet56 → cnn[8,16]",
        "cifar100[fraction=0.25]: resnet56 → cnn[4,8]",
    ]


def test_the_same_configuration_pools_its_seeds_each_once(tmp_path: Path) -> None:
    first = study(tmp_path / "a", {"kd": [70.0, 71.0, 72.0]})
    again = study(tmp_path / "b", {"kd": [72.0, 73.0, 75.0]}, seeds=[2, 3, 4])
    table = table_of([first, again])
    assert texts(table)["kd"] == ["72.20 ± 1.92"]
    assert table.heads[0][-1] == "test, n = 5"
    assert "1 trial in both a and b, with the same numbers: counted once" in table.notes
    other = study(tmp_path / "c", {"kd": [70.5, 71.0, 72.0]})
    table = table_of([first, other])
    assert texts(table)["kd"] == ["71.00 ± 1.00"], "what the first measured stands"
    assert "kd, seed 0: 70.00 in a and 70.50 in c, which should be equal; the first counts" in table.notes


def test_a_directory_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    run = study(tmp_path / "a", {"kd": [70.0, 71.0]})
    (tmp_path / "link").symlink_to(run)
    table = table_of([run, tmp_path / "link", run])
    assert len(table.studies) == 1 and texts(table)["kd"] == ["70.50 ± 0.71"]
    assert "2 of 3 directories repeat another one: counted once" in table.notes
    shutil.copytree(run, tmp_path / "copy" / "a")
    table = table_of([run, tmp_path / "copy" / "a"])
    assert texts(table)["kd"] == ["70.50 ± 0.71"]
    assert f"2 trials in both {run} and {tmp_path / 'copy' / 'a'}, with the same numbers: counted once" in table.notes


def test_two_configurations_of_one_name_are_two_rows(tmp_path: Path) -> None:
    first = study(tmp_path / "a", {"kd": [70.0, 71.0]})
    built = StudyBuilder(tmp_path / "b")
    built.lock = lock()
    built.cell("kd", [73.0, 74.0], arm="none/kd")
    built.design["ablation"]["cells"][0]["cell_id"] = "another"
    for row in built.plan:
        row["cell_id"] = "another"
    rows = texts(table_of([first, built.write()]))
    assert [name for name in rows if name.startswith("kd")] == ["kd (a)", "kd (b)"]
    elsewhere = study(tmp_path / "c", {"ours": [70.0, 71.0]}, arm="angular/kd")
    other = study(tmp_path / "d", {"ours": [73.0, 74.0]}, arm="tekap/dkd")
    rows = texts(table_of([elsewhere, other]))
    assert [name for name in rows if name.startswith("ours")] == ["ours (angular/kd)", "ours (tekap/dkd)"]


def test_a_designs_base_and_a_searchs_winners_are_called_by_their_arm(tmp_path: Path) -> None:
    base = study(tmp_path / "a", {"base": [70.0, 71.0]}, arm="angular/kd")
    built = StudyBuilder(tmp_path / "b")
    built.lock = lock("wrn_40_2", "wrn_16_2")
    for rank, values in ((1, [66.0, 67.0]), (2, [68.0, 69.0])):
        built.cell(f"angular/kd #{rank}", values, phase="confirm", rank=rank, search_score=60.0)
    built.cell("kd", [65.0, 65.5], phase="confirm", role="control", arm="none/kd")
    rows = texts(table := table_of([base, built.write()]))
    assert list(rows) == ["teacher", "angular/kd", "kd"]
    assert rows["angular/kd"][1].startswith("66.50 ± 0.71"), "the first by validation, not the best on the test set"
    assert "b: left out, as the search ranked them below the first of their arm: angular/kd #2" in table.notes


def test_repetitions_of_a_cell_are_no_rows(tmp_path: Path) -> None:
    built = StudyBuilder(tmp_path / "a")
    built.cell("base", SUPERIOR)
    built.cell("replica", SUPERIOR, role="control", replica_of="base")
    built.cell("plain", MIDDLE, role="control", arm="none/kd")
    table = table_of([built.write()])
    assert list(table.groups()) == ["", "methods", "controls"]
    assert list(texts(table)) == ["angular/kd", "plain"]
    assert isinstance(texts(table)["angular/kd"][0], Strong), "not kept from it by its own repetition"
    assert "a: left out, as they repeat another cell: replica" in table.notes


# ------------------------------------------------------------------------------------------------- what leads


def test_bold_is_the_best_where_it_is_resolved_against_the_runner_up(tmp_path: Path) -> None:
    table = table_of([study(tmp_path / "a", {"kd": MIDDLE, "dkd": SUPERIOR, "crd": [60.0, 61.0, 62.0, 60.5, 61.5]})])
    rows = texts(table)
    assert [isinstance(rows[name][0], Strong) for name in ("kd", "dkd", "crd")] == [False, True, False]
    assert not any("†" in cells[0] for cells in rows.values())
    assert any(
        note.startswith("bold: the best of its column, resolved against the runner-up (Holm") for note in table.notes
    )
    lines = list(csv.DictReader(io.StringIO(forms.csv(table))))
    numbers = {line["row"]: line for line in lines}
    p = {name: float(ttest_rel(SUPERIOR, values).pvalue) for name, values in
         (("kd", MIDDLE), ("crd", [60.0, 61.0, 62.0, 60.5, 61.5]))}  # fmt: skip
    assert float(numbers["kd"]["p"]) == pytest.approx(p["kd"])
    smaller, larger = sorted(p, key=p.__getitem__)
    assert float(numbers[smaller]["p_holm"]) == pytest.approx(2 * p[smaller])
    assert float(numbers[larger]["p_holm"]) == pytest.approx(max(p[larger], 2 * p[smaller]))
    assert numbers["kd"]["test"] == "paired t" and numbers["kd"]["pairs"] == "5"


def test_what_is_not_resolved_from_the_best_is_a_tie_with_one_footnote(tmp_path: Path) -> None:
    close = [73.9, 74.4, 73.6, 74.2, 74.0]
    table = table_of([study(tmp_path / "a", {"kd": MIDDLE, "dkd": SUPERIOR, "crd": close})])
    rows = texts(table)
    assert [name for name, cells in rows.items() if "†" in cells[0]] == ["dkd", "crd"]
    assert not any(isinstance(cells[0], Strong) for cells in rows.values())
    assert sum("†" in note for note in table.notes) == 1


def test_holm_may_take_a_lead_that_one_test_alone_would_give() -> None:
    values = {0: {0: 71.0, 1: 71.4, 2: 71.1}, 1: {0: 70.7, 1: 70.8, 2: 70.9}}
    values |= {row: {seed: value - 0.001 * row for seed, value in values[1].items()} for row in range(2, 12)}
    alone = leading({row: values[row] for row in (0, 1)})
    assert 0.02 < alone.rivals[0].p < 0.3
    many = leading(values)
    assert many.rivals[0].p_holm > many.rivals[0].p and not many.settled
    assert many.tied == tuple(range(12))


def test_seeds_that_are_not_shared_are_compared_by_welchs_test() -> None:
    first, second = {0: 71.0, 1: 72.0, 2: 71.5}, {10: 70.0, 11: 69.0, 12: 70.5, 13: 68.0}
    (rival,) = leading({0: first, 1: second}).rivals
    assert rival.pairs == 0
    assert rival.p == pytest.approx(
        float(ttest_ind(list(first.values()), list(second.values()), equal_var=False).pvalue)
    )
    few_shared = leading({0: {s: 70.0 + s for s in range(6)}, 1: {s: 60.0 - s for s in range(4, 10)}}).rivals[0]
    assert few_shared.pairs == 0, "two of six seeds would throw the others away"
    most_shared = leading({0: {s: 70.0 + s for s in range(4)}, 1: {s: 60.0 - s for s in range(1, 5)}}).rivals[0]
    assert most_shared.pairs == 3


def test_a_best_that_is_worse_on_the_shared_seeds_is_not_resolved() -> None:
    best = {0: 60.0, 1: 60.1, 2: 60.2, 3: 99.0, 4: 99.0}
    other = {0: 70.0, 1: 70.11, 2: 70.19}
    lead = leading({0: best, 1: other})
    assert lead.best == 0 and lead.rivals[0].p < 0.05 and not lead.settled


def test_a_single_seed_is_compared_with_nothing(tmp_path: Path) -> None:
    table = table_of([study(tmp_path / "a", {"kd": [99.0, None, None, None, None], "dkd": SUPERIOR, "crd": MIDDLE})])
    rows = texts(table)
    assert rows["kd"] == ["99.00 (1/5)"]
    assert not any(isinstance(cells[0], Strong) for cells in rows.values())
    assert any("kd lies highest and is compared with nothing, so that nothing is bold" in note for note in table.notes)
    assert any(note.startswith("one seed, not replicated and not compared: kd") for note in table.notes)


def test_a_noisy_row_takes_no_lead_that_is_resolved_against_the_runner_up(tmp_path: Path) -> None:
    noisy = [10.0, 95.0, 12.0, 90.0, 11.0]
    table = table_of([study(tmp_path / "a", {"kd": MIDDLE, "dkd": SUPERIOR, "crd": noisy})])
    assert isinstance(texts(table)["dkd"][0], Strong)
    assert any("not resolved from the best either, though below the runner-up: crd" in note for note in table.notes)


def test_equal_accuracies_and_no_spread_settle_nothing() -> None:
    equal = leading({0: {0: 70.0, 1: 70.0}, 1: {0: 70.0, 1: 70.0}})
    assert equal.rivals[0].p == 1 and equal.tied == (0, 1)
    apart = leading({0: {0: 71.0, 1: 71.0}, 1: {5: 70.0, 6: 70.0}})
    assert apart.rivals[0].p == pytest.approx(2 / 6) and not apart.settled


# ------------------------------------------------------------------------------------------------- data, protocol


def search(path: Path, seeds: int = 1, **options: Any) -> Path:
    built = StudyBuilder(path)
    built.lock = lock(**options)
    built.lock["settings"]["search"] = {"seeds": list(range(seeds))}
    for index, accuracy in enumerate((68.0, 70.0, 69.0)):
        for seed in range(seeds):
            built.add("none/kd", accuracy + 0.1 * seed, None, role="search", cell=f"kd{index}", seed=seed)
    built.add("none/kd", 90.0, None, role="search", status="pruned", cell="kd9", seed=0)
    built.add("none/kd", 95.0, None, role="probe", cell="kd8", seed=7)
    return built.write()


def test_a_search_stands_in_a_column_of_validation_images(tmp_path: Path) -> None:
    searched = search(tmp_path / "s")
    table = table_of([searched])
    assert texts(table)["kd"] == ["70.00 (n = 1)"], "neither pruned trials nor probes"
    assert texts(table)["teacher"] == ["70.00"], "on validation images, too"
    said = next(note for note in table.notes if note.startswith("s: validation accuracies of its search"))
    assert "not replicated (one seed), the best of up to 3 configurations by these images" in said
    again = f"akdtune run study.yaml 'confirm={{top: 1, seeds: [100, 101, 102]}}' --extend --dir {searched}"
    assert said.endswith(again)
    both = table_of([searched, study(tmp_path / "a", {"kd": [71.0, 72.0]})])
    assert [lines[-1] for lines in both.heads] == ["validation, n = 1", "test, n = 2"]
    assert texts(both)["kd"] == ["70.00 (n = 1)", "71.50 ± 0.71"]
    assert any("stand in columns of their own and are never compared" in note for note in both.notes)


def test_a_grid_with_seeds_is_replicated(tmp_path: Path) -> None:
    table = table_of([search(tmp_path / "s", seeds=3)])
    assert texts(table)["kd"] == ["70.10 ± 0.10"]
    assert not any("not replicated" in note for note in table.notes)


@pytest.mark.parametrize("configurations", [1, 2])
def test_what_a_search_chose_by_the_same_images_is_compared_with_nothing(tmp_path: Path, configurations: int) -> None:
    built = StudyBuilder(tmp_path / "s")
    built.lock = lock()
    built.lock["settings"]["search"] = {"seeds": [0, 1, 2, 3, 4]}
    for name, values in (("kd", MIDDLE), ("dkd", SUPERIOR)):
        for cell in range(configurations):
            for seed, value in enumerate(values):
                built.add(f"none/{name}", value - cell, None, role="search", cell=f"{name}{cell}", seed=seed)
    table = table_of([built.write()])
    assert isinstance(texts(table)["dkd"][0], Strong) is (configurations == 1)
    assert any("compared with nothing" in note for note in table.notes) is (configurations > 1)


def test_a_phase_may_be_asked_for(tmp_path: Path) -> None:
    built = StudyBuilder(tmp_path / "a")
    built.lock = lock()
    built.add("none/kd", 60.0, None, role="search", cell="s0", seed=9)
    built.cell("kd", [70.0, 71.0], phase="confirm", role="control", arm="none/kd")
    built.cell("base", [72.0, 73.0])
    built.cell("student_only", [50.0, 51.0], role="control", arm="none/student_only")
    run = built.write()
    table = table_of([run])
    assert list(texts(table)) == ["teacher", "student, alone", "kd"], "the student stands beside the confirmation"
    assert "a: left out: 1 cell of its ablation (--phase ablation)" in table.notes
    assert list(texts(table_of([run], phase="ablation"))) == ["teacher", "student, alone", "angular/kd"]
    assert texts(table_of([run], phase="search"))["kd"] == ["60.00 (n = 1)"]
    with pytest.raises(StudyError, match="unknown phase 'confrim'; did you mean 'confirm'"):
        table_of([run], phase="confrim")


def test_protocols_that_differ_are_named_and_their_cells_marked(tmp_path: Path) -> None:
    other = lock(epochs=100, precision="bf16", data={"label_noise": None, "augmentation": {"pad": 0}})
    other["packages"]["torch"] = "2.9"
    first = study(tmp_path / "a", {"kd": MIDDLE})
    second = study(tmp_path / "b", {"dkd": SUPERIOR}, lock=other)
    table = table_of([first, second])
    said = next(note for note in table.notes if note.startswith("the studies differ in their protocol"))
    for part in (
        "training.epochs: 240 (a), 100 (b)",
        "training.precision: fp32 (a), bf16 (b)",
        "data (cifar100).augmentation.pad: none (a), 0 (b)",
        "torch: 2.5 (a), 2.9 (b)",
    ):
        assert part in said
    rows = texts(table)
    assert rows["kd"][0].endswith("¹") and rows["dkd"][0].endswith("²")
    assert table.footnotes[0] == "¹ a, ² b"
    alike = table_of([first, study(tmp_path / "c", {"dkd": SUPERIOR})])
    assert not any("protocol" in note for note in alike.notes)
    assert texts(alike)["kd"][0][-1] not in "¹²"


def test_where_files_are_and_what_runs_them_is_no_protocol(tmp_path: Path) -> None:
    first = study(tmp_path / "a", {"kd": MIDDLE})
    second = study(tmp_path / "b", {"dkd": MIDDLE}, lock=lock(device="cuda", data={"root": "/other", "workers": 8}))
    assert not any("protocol" in note for note in table_of([first, second]).notes)


def test_a_study_without_a_lock_says_so(tmp_path: Path) -> None:
    built = StudyBuilder(tmp_path / "a")
    built.cell("kd", MIDDLE, arm="none/kd")
    table = table_of([built.write()])
    assert "a: there is no study.lock.yaml, so that its protocol is not known" in table.notes
    assert table.heads[0][:2] == ["?", "→ ?"]
    assert any(note.startswith("accuracy of the teacher not known") for note in table.notes)


def test_the_teacher_of_reports_is_the_one_of_test_images(tmp_path: Path) -> None:
    held = lock()
    held["report_teacher"] = {"test_accuracy": 74.5}
    assert texts(table_of([study(tmp_path / "a", {"kd": MIDDLE}, lock=held)]))["teacher"] == ["74.50"]
    held = lock()
    held["teacher"]["test_accuracy"] = 75.0
    table = table_of([study(tmp_path / "b", {"kd": MIDDLE}), study(tmp_path / "c", {"dkd": MIDDLE}, lock=held)])
    assert texts(table)["teacher"] == ["72.34 / 75.00"]
    assert any("teachers of the same network, trained apart: 72.34 (b), 75.00 (c)" in note for note in table.notes)


# ------------------------------------------------------------------------------------------------- gaps, order


def test_missing_diverged_and_running_trials_are_said(tmp_path: Path) -> None:
    built = StudyBuilder(tmp_path / "a")
    built.lock = lock()
    built.cell("kd", [70.0, 71.0, 72.0], arm="none/kd")
    built.cell("dkd", [70.0, 71.0, 72.0], arm="none/dkd", statuses={1: "diverged", 2: "running"})
    built.cell("crd", [None, None, None], arm="none/crd")
    built.cell("pkt", [70.0, float("nan"), 71.0], arm="none/pkt")
    table = table_of([built.write(finished=False)])
    rows = texts(table)
    assert (
        rows["dkd"] == ["70.00 (1/3)"]
        and rows["crd"] == ["– (0/3)"]
        and rows["pkt"][0].startswith("70.50 ± 0.71 (2/3)")
    )
    lost = next(note for note in table.notes if note.startswith("seeds without a value"))
    assert "dkd: 1 of 3 diverged, 1 not finished" in lost and "crd: 3 of 3 not finished" in lost
    assert "pkt: 1 of 3 without a value" in lost
    assert any("a: not finished: 4 of 12 trials of the ablation are missing" in note for note in table.notes)
    for form in (forms.latex, forms.markdown, forms.csv, printed):
        assert "nan" not in form(table)  # type: ignore[operator]


def test_rows_stand_in_the_studys_order_or_by_mean(tmp_path: Path) -> None:
    run = study(tmp_path / "a", {"kd": MIDDLE, "crd": [60.0, 61.0], "dkd": SUPERIOR})
    assert list(texts(table_of([run])))[1:] == ["kd", "crd", "dkd"]
    assert list(texts(table_of([run], sort="mean")))[1:] == ["dkd", "kd", "crd"]
    with pytest.raises(AkdtuneError, match="--sort: unknown order 'men'; did you mean 'mean'"):
        table_of([run], sort="men")


def test_a_study_that_has_nothing_says_what_it_has(tmp_path: Path) -> None:
    built = StudyBuilder(tmp_path / "a")
    built.add("none/kd", 70.0, None, role="probe")
    with pytest.raises(StudyError, match=r"nothing for a table: it has no confirmation, .*1 probe"):
        table_of([built.write()])


# ------------------------------------------------------------------------------------------------- forms


def four_pairs(tmp_path: Path) -> PaperTable:
    pairs = [("resnet32x4", "resnet8x4"), ("resnet56", "resnet20"), ("wrn_40_2", "wrn_16_2"), ("vgg13", "mobilenetv2")]
    cells: dict[str, list[float | None]] = {
        "a_method_of_a_very_long_name_that_goes_on_and_on": [*MIDDLE],
        "dkd": [*SUPERIOR],
    }
    return table_of([study(tmp_path / f"s{i}", cells, lock=lock(*pair)) for i, pair in enumerate(pairs)])


@pytest.mark.parametrize("width", [80, 100, 160])
def test_columns_that_do_not_fit_stand_in_further_blocks(tmp_path: Path, width: int) -> None:
    text = printed(four_pairs(tmp_path), width)
    assert max(map(len, text.splitlines())) <= width
    assert sum(line.startswith("teacher ") for line in text.splitlines()) == {80: 2, 100: 1, 160: 1}[width]
    assert text.count("74.08 ± 0.19*") == 4, "every number whole, and what is bold is marked for pipes, too"


def test_numbers_of_a_column_stand_at_the_point(tmp_path: Path) -> None:
    text = printed(table_of([study(tmp_path / "a", {"kd": [9.0, 9.2], "dkd": [99.9, None], "crd": [50.0, 70.0]})]))
    points = {line.index(".") for line in text.splitlines() if line.startswith(("kd ", "dkd ", "crd ", "teacher "))}
    assert len(points) == 1


def tex_rows(text: str) -> Iterator[list[str]]:
    """Cells of the lines of a tabular."""
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    for line in body.splitlines():
        if line.endswith(r"\\") and r"\multicolumn" not in line:
            yield re.split(r"(?<!\\)&", line)


HARD = 'a&b_c 100% #1 $x$ {y} ~z^ \\w <v> |u| "q" [p]'


def test_latex_takes_any_name(tmp_path: Path) -> None:
    table = table_of([study(tmp_path / "a", {HARD: SUPERIOR, "[b]": MIDDLE, "*kd*": [1.0, 2.0]})])
    text = forms.latex(table)
    assert {len(cells) for cells in tex_rows(text)} == {2}
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert r"a\&b\_c 100\% \#1 \$x\$ \{y\}" in text
    assert r"\textbf{74.08 $\pm$ 0.19}" in text
    assert "\n    {}[b] &" in text
    bare = re.sub(
        r"\\[a-zA-Z]+|\\[\\&%$#_{}]|\$\\?[^$]*\$", "", text[text.index(r"\begin{table}") : text.rindex(r"\end{table}")]
    )
    assert not re.search(r"[#%~^_$]", bare), "nothing that LaTeX would read as its own"
    for rule in (r"\begin{table}", r"\toprule", r"\midrule", r"\bottomrule", r"\end{minipage}", r"\end{table}"):
        assert rule in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles(tmp_path: Path) -> None:
    table = table_of([study(tmp_path / "a", {HARD: SUPERIOR, "[b]": MIDDLE}), search(tmp_path / "s")])
    packages = r"\usepackage{booktabs}\usepackage[T1]{fontenc}"
    whole = rf"\documentclass{{article}}{packages}\begin{{document}}{forms.latex(table)}\end{{document}}"
    (tmp_path / "t.tex").write_text(whole, encoding="utf-8")
    ended = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-2000:]


def test_markdown_takes_any_name(tmp_path: Path) -> None:
    text = forms.markdown(table_of([study(tmp_path / "a", {HARD: SUPERIOR, "*kd*": MIDDLE})]))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert r"\*kd\*" in text and "**74.08 ± 0.19**" in text and r"\<v>" in text


def test_csv_holds_every_number(tmp_path: Path) -> None:
    table = table_of([study(tmp_path / "a", {"kd": [1 / 3, 2 / 3], "dkd": [70.0, 71.0]})])
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO(forms.csv(table)))}
    assert (
        float(lines["kd"]["mean"]) == 0.5 and lines["kd"]["seeds"] == "0 1" and lines["kd"]["cell_id"] == cell_id("kd")
    )
    assert lines["teacher"]["mean"] == "72.34" and lines["dkd"]["best"] == "True"


# ------------------------------------------------------------------------------------------------- command


def test_the_command_prints_and_writes_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(study(tmp_path / "a", {"kd": MIDDLE, "dkd": SUPERIOR}))
    assert main(["table", run]) == 0
    assert "74.08 ± 0.19*" in capsys.readouterr().out
    for suffix, begins in ((".tex", r"% \usepackage{booktabs}"), (".md", "Test accuracy"), (".csv", "pair,")):
        file = tmp_path / f"t{suffix}"
        assert main(["table", run, "--out", str(file)]) == 0
        assert capsys.readouterr().out == f"written: {file}\n"
        assert file.read_text().startswith(begins)
    assert main(["table", run, "--format", "latex"]) == 0
    assert capsys.readouterr().out == (tmp_path / "t.tex").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "t.xlsx"], "--out: t.xlsx ends in none of .tex, .md, .csv; give --format"),
        (["--format", "latx"], "--format: unknown form 'latx'; did you mean 'latex'"),
        (["--format", "terminal", "--out", "t.tex"], "--format: terminal goes to no file"),
        (["--sort", "best"], "--sort: unknown order 'best'"),
    ],
)
def test_mistakes_are_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(study(tmp_path / "a", {"kd": MIDDLE}))
    assert main(["table", run, *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "t.tex").exists()


def test_a_run_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", str(tmp_path / "nothing")]) == 2
    assert "no such study directory" in capsys.readouterr().err
