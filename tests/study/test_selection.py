"""The section `selection`: how it is written, what it leaves as it was, what is refused when a file is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from akdtune.designs.cells import control_cell, plan_cells
from akdtune.designs.selecting import NO_SELECTION
from akdtune.errors import AkdtuneError, SettingsError
from akdtune.running.streams import draws
from akdtune.settings.sections import AblationSettings
from akdtune.settings.trial import trial_settings
from akdtune.study import spec
from akdtune.study.ids import cell_hash
from akdtune.study.spec import Study
from akdtune.study.written import export_yaml

STUDY = """
study: small
data: {name: digits, validation: 300}
teacher:
  {network: {name: cnn, widths: [8, 16]}, epochs: 4, others: [{network: {name: cnn, widths: [4, 8]}, epochs: 2}]}
student: {network: {name: cnn, widths: [4, 8]}}
method: kd
training: {epochs: 10, milestones: [5, 8]}
"""
SEARCH = STUDY + "search: {algorithm: grid}\n"
ABLATION = STUDY + "selection: {name: gap, share: 0.4}\nablation: {design: arms, seeds: [1, 2, 3], arms: {x: {}}}\n"
Loader = Callable[..., Study]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    monkeypatch.chdir(tmp_path)

    def write_and_load(text: str, *overrides: str) -> Study:
        Path("study.yaml").write_text(text, encoding="utf-8")
        return spec.load("study.yaml", overrides)

    return write_and_load


def problems(load: Loader, text: str, *overrides: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(text, *overrides)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("line", ["selection: none\n", "selection: null\n", "selection: {name: none}\n"])
def test_all_rows_leave_no_trace(load: Loader, line: str) -> None:
    plain, said = load(SEARCH), load(SEARCH + line)
    assert said.resolved() == plain.resolved()
    assert "selection" not in plain.resolved()
    settings = [study.arms[0].centre().settings for study in (plain, said)]
    assert settings[0] == settings[1]
    assert cell_hash(settings[0], "d", "t") == cell_hash(settings[1], "d", "t")
    assert said.arms[0].name == "none/kd"


def test_a_selection_is_part_of_what_a_trial_is(load: Loader) -> None:
    hashes = set()
    for line in ("", "selection: gap\n", "selection: {name: gap, share: 0.5}\n", "selection: random\n"):
        study = load(SEARCH + line)
        settings = study.arms[0].centre().settings
        hashes.add(cell_hash(settings, "d", "t"))
        assert draws(settings) is ("random" in line)
    assert len(hashes) == 4
    study = load(SEARCH + "selection: gap\n")
    assert study.arms[0].name == "none/kd@gap"
    filled = {"name": "gap", "share": 0.4, "temperature": 1.0}
    assert study.arms[0].centre().settings["selection"] == study.resolved()["selection"] == filled
    again = load(export_yaml(study.resolved(), study.arms[0].centre().settings))
    assert again.arms[0].centre().settings == study.arms[0].centre().settings


def test_selections_are_arms_of_a_search_and_their_settings_dimensions(load: Loader) -> None:
    text = STUDY + (
        "selection: {choice: [none, {name: gap, share: {uniform: [0.2, 0.8]}}, {name: random, share: 0.5}]}\n"
        "search: {algorithm: random, trials: 12}\nscheduler: {name: none}\n"
    )
    study = load(text)
    assert [arm.name for arm in study.arms] == ["none/kd", "none/kd@gap", "none/kd@random"]
    assert [dimension.path for arm in study.arms for dimension in arm.dimensions] == ["selection.share"]
    drawn = [arm.random(3).settings.get("selection") for arm in study.arms]
    assert drawn[0] is None and drawn[1]["name"] == "gap" and 0.2 <= drawn[1]["share"] <= 0.8
    shares = load(STUDY + "selection: {name: gap, share: {choice: [0.2, 0.4]}}\nsearch: {algorithm: grid}\n")
    assert [arm.name for arm in shares.arms] == ["none/kd@gap"]
    both = load(
        STUDY + "selection: {choice: [{name: gap, share: 0.2}, {name: gap, share: 0.4}]}\nsearch: {algorithm: grid}\n"
    )
    assert [arm.name for arm in both.arms] == ["none/kd@gap[share=0.2]", "none/kd@gap[share=0.4]"]


def test_overrides(load: Loader) -> None:
    assert load(SEARCH, "selection=gap").arms[0].name == "none/kd@gap"
    study = load(SEARCH + "selection: gap\n", "selection.share=0.25")
    assert study.arms[0].centre().settings["selection"]["share"] == 0.25
    assert load(SEARCH + "selection: gap\n", "selection=none").arms[0].name == "none/kd"


@pytest.mark.parametrize(
    ("lines", "overrides", "message"),
    [
        ("selection: gaap\n", (), "study.yaml:10: selection.name: unknown selection 'gaap'; did you mean 'gap'?"),
        ("selection: {name: gap, shar: 0.4}\n", (), "study.yaml:10: selection.shar: unknown key 'shar'; did you mean"),
        ("selection: {name: gap, share: 2}\n", (), "study.yaml:10: selection.share: must be at most 1, got 2"),
        ("selection: 3\n", (), "study.yaml:10: selection: must be a name or a mapping with a 'name', got 3"),
        (
            "selection: gap\n", ("teacher.others=[]",),
            "selection: 'gap' needs a reference: list a network of the student's size under teacher.others",
        ),
        (
            "selection: {name: random, of: gap}\n", ("teacher.others=[]",),
            "selection: 'gap' needs a reference: list a network of the student's size under teacher.others",
        ),
        (
            "selection: gap\n", ("method=last_batch",),
            "method: 'last_batch' cannot work with the selection 'gap': it keeps what the student said about the last",
        ),
        (
            "selection: random\n", ("method=[kd, sdpgo_style]",),
            "method: 'sdpgo_style' cannot work with the selection 'random': it keeps what the student said about the",
        ),
        (
            "selection: gap\n", ("method=simkd",),
            "method: 'simkd' cannot work with the selection 'gap': the student predicts through it, for all rows",
        ),
        (
            "selection: random\n", ("method=student_only",),
            "selection: 'random' says which rows are distilled, and 'student_only' distils none",
        ),
    ],
)  # fmt: skip
def test_refusals(load: Loader, lines: str, overrides: tuple[str, ...], message: str) -> None:
    found = problems(load, SEARCH + lines, *overrides)
    assert len(found) == 1, found
    assert message in found[0]


def test_without_a_teacher_nothing_is_chosen_by_one(load: Loader) -> None:
    found = problems(load, SEARCH + "selection: confidence\n", "teacher=none", "method=label_smoothing")
    assert any("selection: 'confidence' needs a teacher, and teacher.network is none" in text for text in found)


def test_a_reference_is_read(load: Loader) -> None:
    unread = load(SEARCH)
    assert any("others: are read by no views and no selection of this study" in text for text in unread.warnings)
    assert not any("others" in text for text in load(SEARCH + "selection: gap\n").warnings)
    arms = "ablation: {design: arms, seeds: [1, 2, 3], arms: {gap: {selection: gap}}, controls: []}\n"
    assert not any("others" in text for text in load(STUDY + arms).warnings)


# Cells and controls


def cells(load: Loader, *overrides: str) -> dict[str, dict[str, Any]]:
    plan = load(ABLATION, *overrides).cell_plan
    assert plan is not None
    return {cell.name: {**cell.settings, "arm": cell.arm} for cell in plan.cells}


def test_a_selection_is_a_factor_and_an_arm(load: Loader) -> None:
    found = cells(
        load, "ablation.arms={all: {selection: none}, half: {selection.share: 0.5}, right: {selection: correct_only}}"
    )
    assert {name: of["arm"] for name, of in found.items()} == {
        "base": "none/kd@gap", "all": "none/kd", "half": "none/kd@gap", "right": "none/kd@correct_only",
    }  # fmt: skip
    assert "selection" not in found["all"]
    assert found["half"]["selection"] == {"name": "gap", "share": 0.5, "temperature": 1.0}
    text = STUDY + "ablation: {design: full_factorial, factors: {selection: [none, gap]}, seeds: [1, 2, 3]}\n"
    plan = load(text).cell_plan
    assert plan is not None
    assert [cell.arm for cell in plan.cells] == ["none/kd", "none/kd@gap"]
    with pytest.raises(SettingsError, match=r"cell 'x': selection: 'random' says which rows are distilled"):
        cells(load, "ablation.arms={x: {selection: random, method: student_only}}")


def test_controls_of_a_selection(load: Loader) -> None:
    found = cells(
        load,
        "ablation.controls=[random_selection, step_matched, row_matched, student_only, random_teacher, replica, kd]",
    )
    base, weight = found["base"], 0.1
    for name in found:
        assert found[name]["student"] == base["student"] and found[name]["data"] == base["data"]
    random, steps, rows = (found[name] for name in ("random_selection", "step_matched", "row_matched"))
    assert random["selection"] == {"name": "random", "share": 0.4, "of": None}
    assert random["training"] == {**base["training"], "ce_weight": weight}
    assert "selection" not in steps
    assert steps["training"] == {**base["training"], "ce_weight": weight}, "as many steps"
    assert "selection" not in rows
    assert (rows["training"]["epochs"], rows["training"]["milestones"]) == (4, [2, 3]), "0.4 times as many epochs"
    assert "selection" not in found["student_only"]
    noise = found["random_teacher"]
    assert (noise["views"]["name"], noise["selection"]["name"]) == ("random", "random"), "the teacher chooses no rows"
    assert found["replica"]["selection"] == base["selection"]
    assert "kd" not in found, "the same configuration as step_matched, trained once"


@pytest.mark.parametrize(
    ("selection", "share"), [({"name": "correct_only"}, None), ({"name": "confidence", "threshold": 0.9}, None)]
)
def test_controls_of_a_selection_whose_number_varies(load: Loader, selection: dict[str, Any], share: None) -> None:
    study = load(ABLATION, f"selection={selection}".replace("'", ""), "ablation.controls=[random_selection]")
    assert study.cell_plan is not None
    base, _, random = study.cell_plan.cells[0], None, study.cell_plan.cells[-1]
    assert random.settings["selection"] == {"name": "random", "share": share, "of": base.settings["selection"]}
    with pytest.raises(SettingsError, match=f"'{selection['name']}' keeps another number of rows in each batch"):
        load(ABLATION, f"selection={selection}".replace("'", ""), "ablation.controls=[row_matched]")


def test_controls_that_make_no_sense(load: Loader) -> None:
    plain, random = "selection=none", "selection=random"
    for control, override, why in (
        ("random_selection", plain, "the base distils all rows"),
        ("row_matched", plain, "the base distils all rows"),
        ("random_selection", random, "the base draws its rows at random already"),
        ("step_matched", plain, "the base has no views"),
    ):
        with pytest.raises(SettingsError, match=f"control '{control}' makes no sense here: {why}"):
            load(ABLATION, override, f"ablation.controls=[{control}]")


def test_step_matched_of_views_is_as_it_was(load: Loader) -> None:
    views = "views={name: angular, warmup_epochs: 4}"
    of_views = cells(load, views, "selection=none", "ablation.controls=[step_matched]")["step_matched"]
    assert (of_views["views"]["name"], of_views["training"]["epochs"]) == ("none", 14)
    of_both = cells(load, views, "ablation.controls=[step_matched]")["step_matched"]
    assert (of_both["views"]["name"], of_both["training"]["epochs"]) == ("angular", 10)
    assert "selection" not in of_both


def warnings(load: Loader, *overrides: str) -> list[str]:
    return [text for text in load(ABLATION, *overrides).warnings if "rows are chosen" in text]


def test_a_selection_without_its_controls_is_warned_about(load: Loader) -> None:
    assert warnings(load) == [
        "study.yaml:10: ablation: rows are chosen in base, and no cell says what as many rows drawn at random do: add"
        " the control random_selection",
        "study.yaml:10: ablation: rows are chosen in base, and no cell says what all rows in as many steps do: add the"
        " control step_matched",
    ]
    controls = "ablation.controls=[random_selection, step_matched]"
    assert warnings(load, controls) == []
    assert len(warnings(load, "ablation.controls=[random_selection]")) == 1
    by_hand = "ablation.arms={a: {selection: none}, b: {selection: {name: random, share: 0.4}}}"
    assert warnings(load, by_hand) == [], "the same cells by other names"
    (of_arm,) = warnings(load, controls, "ablation.arms={c: {selection: correct_only}}")
    assert of_arm.endswith("add an arm with selection: {name: 'random', of: {name: 'correct_only'}}")
    assert warnings(load, controls, "ablation.arms={whole: {selection.share: 1}}") == []
    assert warnings(load, "selection=random") == []


def test_a_search_that_chooses_rows_is_warned_about(load: Loader) -> None:
    def found(lines: str, *overrides: str) -> list[str]:
        return [text for text in load(STUDY + lines, *overrides).warnings if "adds to training on fewer" in text]

    (warning,) = found("selection: gap\nsearch: {algorithm: grid}\n")
    assert warning.endswith(
        "selection: what the choice adds to training on fewer rows is told by the baselines random_selection and"
        " step_matched (confirm.baselines)"
    )
    confirm = "confirm={seeds: [7], baselines: [random_selection, step_matched]}"
    assert found("selection: gap\nsearch: {algorithm: grid}\n", confirm) == []
    (half,) = found("selection: {choice: [none, gap]}\nsearch: {algorithm: grid}\n")
    assert "baselines random_selection (" in half
    assert found("selection: {choice: [none, gap, random]}\nsearch: {algorithm: grid}\n") == []
    assert found("selection: random\nsearch: {algorithm: grid}\n") == []


def test_baselines_of_a_confirmation(load: Loader) -> None:
    study = load(
        SEARCH + "selection: gap\n", "confirm={seeds: [7, 8], baselines: [random_selection, step_matched, dkd]}"
    )
    assert study.confirm is not None
    base = study.arms[0].centre()
    plan = plan_cells(AblationSettings(design="arms", arms={"x": {}}, seeds=[1]), base.written, study.constants)
    assert control_cell("random_selection", plan.base, study.constants).arm == "none/kd@random"
    with pytest.raises(AkdtuneError, match="makes no sense"):
        control_cell("random_selection", control_cell("step_matched", plan.base, study.constants), study.constants)


def test_typed_settings_of_a_trial_hold_a_selection_where_there_is_one() -> None:
    sections = {"views": {"name": "none"}, "method": [{"name": "kd"}], "student": {"network": "resnet8"}}
    for selection in (None, NO_SELECTION, "none"):
        settings, issues = trial_settings({**sections, "selection": selection}, {})
        assert not issues and "selection" not in settings
    settings, _ = trial_settings({**sections, "selection": {"name": "random"}}, {})
    assert settings["selection"] == {"name": "random", "share": 0.4, "of": None}
