"""Settings in another form than ours are answered with the one that works, which the reader then takes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from akdtune.errors import SettingsError
from akdtune.settings.hints.domain_hints import as_domain
from akdtune.settings.hints.known_paths import known_settings, meant_by
from akdtune.settings.training import TrainingSettings
from akdtune.study import spec


def refused(source: str | Path, *overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        spec.load(source, overrides)
    (problem,) = caught.value.problems
    return str(problem)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("trials=48", "search.trials=48 or probe.trials=48"),
        ("batch_size=32", "training.batch_size=32 or teacher.batch_size=32"),
        ("wandb.project=mine", "tracking.wandb.project=mine"),
        ("gpus=1", "resources.gpu=1"),
        ("num_views=5", "views.num_views=5"),
        ("num_views=[1,3,5]", "'views.num_views={choice: [1, 3, 5]}'"),
        ("num_views=1,3,5", "'views.num_views={choice: [1, 3, 5]}'"),
        ("num_trials=48", "search.trials=48 or probe.trials=48"),
        ("learning_rate=.1", "training.lr=.1 or teacher.lr=.1"),
        ("optim.lr=.1", "training.lr=.1 or teacher.lr=.1"),
        ("serach.trials=9", "search.trials=9"),
        ("dataset=cifar10", "data.name=cifar10"),
        ("tf32=yes", "training.tf32=true"),
        ("seeds=[1, 2]", "'search.seeds=[1, 2]' or 'probe.seeds=[1, 2]' or 'confirm.seeds=[1, 2]'"),
        ("algoritm=random", "search.algorithm=random"),
    ],
)
def test_a_key_without_its_section(override: str, meant: str) -> None:
    key = override.partition("=")[0]
    first = key.partition(".")[0]
    assert refused("digits_angular", override) == (
        f"command line: {key}: unknown section '{first}'; did you mean {meant}?"
    )


@pytest.mark.parametrize("override", ["trials=48", "gpus=0", "num_views=[1,3]", "wandb.project=mine", "tf32=yes"])
def test_what_is_proposed_is_accepted(override: str) -> None:
    text = refused("digits_angular", override).partition("did you mean ")[2].rstrip("?").partition(" or ")[0]
    (proposed,) = shlex.split(text)
    assert spec.load("digits_angular", [proposed]).name == "digits_angular"


def test_sections_that_a_study_has_come_first() -> None:
    with_teacher = {"teacher": {"network": "cnn"}}
    assert [setting.key for setting in meant_by("epochs", with_teacher)] == ["teacher.epochs", "training.epochs"]
    assert [setting.key for setting in meant_by("epochs", {})] == ["training.epochs", "teacher.epochs"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search.trials", "=", "48"], "search.trials = 48: an override is one argument"),
        (["search.trials=", "48"], "search.trials= 48: an override is one argument"),
        (["search.trials", "=48"], "search.trials =48: an override is one argument"),
        (["search.trials", "48"], "search.trials 48: an override is one argument"),
        (["search.trials:", "48"], "search.trials: 48: an override is one argument"),
        (["search.trials: 48"], "search.trials: 48: must have the form key.path=value"),
        (["trials: 48"], "trials: 48: must have the form key.path=value"),
        (["--search.trials=48"], "--search.trials=48: must have the form key.path=value"),
        (["+search.trials=48"], "+search.trials=48: must have the form key.path=value"),
    ],
)
def test_one_override_in_another_form(words: list[str], said: str) -> None:
    message = refused("digits_angular", *words)
    assert message.startswith(f"command line: {said}")
    assert message.partition(": search.trials=48")[1]


@pytest.mark.parametrize(
    ("override", "ending"),
    [
        ("views.num_views=[1,3,5]", "got [1, 3, 5]; to search over these, write {choice: [1, 3, 5]}"),
        ("views.num_views=1,3,5", "got '1,3,5'; to search over these, write {choice: [1, 3, 5]}"),
        ("views.num_views=2..5", "got '2..5'; to search over these, write {int_uniform: [2, 5]}"),
        ("views.margin={0.1, 0.2, 0.3}", "; to search over these, write {choice: [0.1, 0.2, 0.3]}"),
        ("views.margin=uniform(.1, .5)", "; to search over these, write {uniform: [0.1, 0.5]}"),
        ("training.lr=tune.loguniform(1e-3, .1)", "; to search over these, write {log_uniform: [0.001, 0.1]}"),
        ("views.margin=[.1, .5]",
         "; to search over these, write {choice: [0.1, 0.5]} (one of these) or {uniform: [0.1, 0.5]} (any between)"),
        ("training.optimizer=[sgd, adamw]", "; to search over these, write {choice: [sgd, adamw]}"),
        ("views.margin=0,5", "got '0,5'; write a point instead of the comma"),
    ],
)  # fmt: skip
def test_a_list_where_one_value_stands(override: str, ending: str) -> None:
    assert refused("digits_angular", override).endswith(ending)


@pytest.mark.parametrize("override", ["training.epochs=[40, 80]", "search.trials=[4, 8]", "search.seed=[0, 1]"])
def test_no_domain_is_proposed_where_none_may_stand(override: str) -> None:
    assert "choice" not in refused("digits_angular", override)


def test_a_value_that_fits_is_no_domain() -> None:
    fields = TrainingSettings.model_fields
    assert as_domain(fields["milestones"], [1, 2]) is None
    assert as_domain(fields["optimizer"], "sgd") is None
    assert as_domain(fields["lr"], ["a", "b"]) is None
    assert as_domain(fields["lr"], [-1.0, 2.0]) is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.epochs=20", "unknown key 'epochs'; did you mean training.epochs or teacher.epochs? (allowed: "),
        ("training.margin=.2", "unknown key 'margin'; did you mean views.margin? (allowed: "),
        ("student=resnet20", "got 'resnet20'; did you mean student.network=resnet20?"),
        ("data=cifar10", "got 'cifar10'; did you mean data.name=cifar10?"),
    ],
)
def test_a_key_in_the_wrong_section(override: str, words: str) -> None:
    assert words in refused("digits_angular", override)


def test_in_a_file_it_is_shown_as_a_line_of_it(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("base: digits_angular\ntrials: 48\n")
    assert refused(file) == (
        f"{file}:2: trials: unknown section 'trials'; did you mean `search: {{trials: 48}}` or `probe: {{trials: 48}}`?"
    )


def test_every_setting_is_found_by_its_own_path() -> None:
    for setting in known_settings(spec.plain_values("digits_angular")):
        assert setting in meant_by(setting.key, {})[:3] or setting.path[0] in ("views", "method", "student", "teacher")
