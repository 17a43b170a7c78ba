"""The README stays true: its plugin works, its YAML loads, its commands and files exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import akdtune
from akdtune.data.dataset import load_data
from akdtune.folders import packaged
from akdtune.registry import kept, lookup, names
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import TeacherSettings
from akdtune.settings.training import Seeds, StudentSettings, TrainingSettings
from akdtune.study import spec
from akdtune.teacher.find import find_teacher
from akdtune.training.config import TrialConfig
from akdtune.training.teachers import train_teachers
from akdtune.training.trial import Trial
from tests.checkout import ROOT

PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
README = PAGES["README.md"]
FILES = r"(?:docs|search_spaces|analysis|benchmarks|tests)/[\w./]+\w"


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)


def test_it_is_short() -> None:
    assert len(README.split()) <= 1500


def test_the_notebooks_lines_name_what_is_there() -> None:
    (code,) = blocks("python")
    for name in re.findall(r"akdtune\.(\w+)\(", code):
        assert name in akdtune.__all__
    for name in re.findall(r"results\.(\w+)", code):
        assert hasattr(akdtune.Results, name)
    assert len(code.splitlines()) <= 8


@pytest.fixture
def own_components() -> Iterator[None]:
    """A registry whose additions vanish after the test."""
    with kept():
        yield


def test_the_example_method_trains(own_components: None) -> None:
    (code,) = [block for block in blocks("python", "components.md") if "@register" in block]
    exec(compile(code, "components.md", "exec"), {"__name__": "example"})
    settings = DataSettings(name="digits", validation=600)
    dataset = load_data(settings, torch.device("cpu"))
    recipe = TeacherSettings(network={"name": "cnn", "widths": [2, 4]}, epochs=1)
    list(train_teachers(recipe, dataset, "subset", torch.device("cpu")))
    found = find_teacher(recipe, dataset, "subset")
    assert found is not None
    method = lookup("methods", "mse")
    config = TrialConfig(
        data=settings,
        student=StudentSettings(network={"name": "cnn", "widths": [2, 4]}),
        views=("none", lookup("views", "none").Settings()),
        methods=(("mse", method.Settings(weight=0.5)),),
        training=TrainingSettings(epochs=1),
        seeds=Seeds(),
        role="search",
        teacher_file=found,
    )
    (epoch,) = Trial(config).run()
    assert (epoch.row["loss.mse"] or 0) > 0


def test_the_example_space_loads(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    study = yaml.safe_load(packaged()["digits_angular"].read_text())
    study.update(yaml.safe_load(text))
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    assert [arm.name for arm in spec.load(file).arms] == ["angular/kd", "angular/kd+crd"]


def test_the_example_teachers_are_settings() -> None:
    texts = [block for block in blocks("text", "writing_studies.md") if block.startswith("teacher:")]
    shown = [yaml.safe_load(line)["teacher"] for text in texts for line in text.splitlines() if line[:8] == "teacher:"]
    settings = [TeacherSettings(**({"network": given} if isinstance(given, str) else given)) for given in shown]
    assert [teacher.absent for teacher in settings][:4] == [True, False, False, False]
    assert [len(teacher.others) for teacher in settings][:4] == [0, 0, 0, 2]


def test_it_counts_the_methods_right() -> None:
    (more,) = re.findall(r"KD, DKD, CRD, (\d+) more", README)
    own = [name for name in names("methods") if lookup("methods", name).__module__.startswith("akdtune.")]
    assert int(more) + 3 == len(own)


@pytest.mark.parametrize("path", sorted({path for text in PAGES.values() for path in re.findall(FILES, text)}))
def test_every_file_it_names_exists(repository: Path, path: str) -> None:
    assert (repository / path).exists()


def test_every_command_it_names_exists() -> None:
    from typer.testing import CliRunner

    from akdtune.cli.app import app

    shown = CliRunner().invoke(app, ["--help"]).output
    for command in set(re.findall(r"^akdtune (\w+)", README, flags=re.MULTILINE)):
        assert command in shown, command


def test_the_house_is_drawn_as_it_stands() -> None:
    """docs/design.md names every package in its tree and in its table of what may import what."""
    tree, rule = (PAGES["design.md"].partition("## The rule of imports")[place] for place in (0, 2))
    for package in sorted(path.parent.name for path in (ROOT / "akdtune").glob("*/__init__.py")):
        assert f"{package}/" in tree and f"`{package}`" in rule, package
