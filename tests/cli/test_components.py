"""What is listed is what is registered, and what is shown is what the code says."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import Field

from akdtune import registry
from akdtune.cli import components, listing_commands, main
from akdtune.registry import Component, ComponentSettings, Kind, Pair, lookup
from akdtune.settings.data import OWNED_SETTINGS, RowDataSettings, data_settings
from akdtune.study import spec

KINDS: tuple[Kind, ...] = ("methods", "views", "selections", "networks", "data")


@pytest.mark.parametrize("kind", KINDS)
def test_every_component_is_listed_with_one_line_and_its_paper(kind: Kind) -> None:
    rows = components.rows(kind)
    of_libraries = {f"{library}/NAME" for library in registry.families(kind)}
    assert sorted({row.name for row in rows} - of_libraries) == registry.names(kind)
    assert of_libraries <= {row.name for row in rows}
    for row in rows:
        assert row.about, row.name
        assert row.source or row.name in ("image_folder", "parquet"), row.name
        assert row.signals or kind == "data"


@pytest.mark.parametrize("kind", KINDS)
def test_every_component_can_be_shown(kind: Kind) -> None:
    for name in registry.names(kind):
        shown = components.details(kind, name)
        model = lookup(kind, name).Settings
        assert shown.splitlines()[0] == f"{components.SINGULAR[kind]} {name}"
        assert lookup(kind, name).source in shown
        assert all(key in shown for key in model.model_fields if key != "rehearsal")


def test_a_method_shows_defaults_ranges_and_where_it_differs() -> None:
    shown = components.details("methods", "dkd")
    settings = lookup("methods", "dkd").Settings()
    assert f"default {settings.beta:g}" in shown
    assert "number > 0" in shown
    assert "Differs:" in shown
    assert "Terms:" in shown
    assert "resnet56 to resnet20 on cifar100: beta 2\n" in shown


def test_published_settings_are_shown_as_the_resolver_takes_them() -> None:
    for pair in components.PAIRS:
        published = lookup("methods", "dkd").published(pair)
        line = f"  {pair.teacher} to {pair.student} on {pair.data}"
        assert (line in components.details("methods", "dkd")) is bool(published)


@pytest.mark.parametrize("name", ["kd", "dkd", "mlkd", "reviewkd", "ofd", "cat_kd"])
def test_imagenets_mobilenet_is_said_to_be_the_first(name: str) -> None:
    """Published for MobileNetV1, whatever it is called there: its blocks are depthwise and pointwise alone."""
    line = "\n  torchvision_resnet50 to torchvision_mobilenet_v2 on imagenet, taken from MobileNetV1: "
    assert line in components.details("methods", name)


def test_whose_numbers_a_pair_takes() -> None:
    def taken(name: str, *pair: str) -> str:
        said: str = lookup("methods", name).published_for(Pair(*pair))
        return said

    small, large = (
        ("torchvision_resnet34", "torchvision_resnet18"),
        ("torchvision_resnet50", "torchvision_mobilenet_v2"),
    )
    both = "torchvision_resnet34 to torchvision_resnet18 and torchvision_resnet50 to MobileNetV1"
    of_small, of_large = (f"{' to '.join(pair)} on imagenet" for pair in (small, large))
    assert taken("kd", "imagenet", *small) == of_small
    assert taken("kd", "imagenet", *large) == f"{of_large}, taken from MobileNetV1"
    assert taken("kd", "imagenet", "a", "b") == f"a to b on imagenet, taken from {both}"
    assert taken("ofd", "imagenet", *small) == f"{of_small}, taken from torchvision_resnet50 to MobileNetV1"
    assert taken("ctkd", "imagenet", *large) == f"{of_large}, taken from torchvision_resnet34 to torchvision_resnet18"
    assert taken("dkd", "digits", "resnet56", "resnet20") == "resnet56 to resnet20 on cifar100"


def test_types_and_ranges_of_settings() -> None:
    class Settings(ComponentSettings):
        share: float = Field(0.5, ge=0, lt=1, description="a share")
        number: int | None = Field(None, ge=1, description="a count")
        names: list[str] = Field(["a"], description="names")

    class Thing(Component):
        pass

    Thing.Settings = Settings
    shown = "\n".join(components.settings_lines("methods", Thing))
    assert "number >= 0 and < 1" in shown
    assert "integer >= 1 or null" in shown
    assert "list of string" in shown
    assert "default null" in shown


def test_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    assert "dkd" in listed
    assert "arXiv 2203.08679" in listed
    assert main(["views", "angular"]) == 0
    assert "variant released:" in capsys.readouterr().out
    assert main(["networks", "resnet8x4"]) == 0
    assert "stages" in capsys.readouterr().out
    assert main(["data", "parquet"]) == 0
    assert "image_column" in capsys.readouterr().out
    assert main(["methods", "dkkd"]) == 2
    assert "did you mean 'dkd'?" in capsys.readouterr().err


def test_published_values_win_over_defaults_and_lose_to_what_is_given() -> None:
    from akdtune.settings.trial import trial_settings

    study = {"data": {"name": "cifar100"}, "teacher": {"network": "resnet56"}}
    values = {"student": {"network": "resnet20"}, "views": {"name": "none"}, "training": {}}
    settings, issues = trial_settings(values | {"method": {"name": "dkd"}}, study)
    assert not issues
    assert settings["method"][0]["beta"] == 2
    settings, _ = trial_settings(values | {"method": {"name": "dkd", "beta": 5.0}}, study)
    assert settings["method"][0]["beta"] == 5
    settings, _ = trial_settings(values | {"method": {"name": "dkd"}}, {})
    assert settings["method"][0]["beta"] == 8
    assert lookup("methods", "kd").ce_weight(Pair("imagenet", "a", "b")) == 0.5


def test_networks_are_listed_by_size() -> None:
    listed = [row.name for row in components.rows("networks")]
    assert [name for name in listed if name.startswith("resnet")][:3] == ["resnet8", "resnet8x4", "resnet14"]


@pytest.mark.parametrize("name", registry.names("data"))
def test_a_data_set_shows_settings_and_an_example_that_is_read(name: str) -> None:
    source = lookup("data", name)
    shown = components.details("data", name)
    (line,) = [text.strip() for text in shown.splitlines() if text.startswith("    data: ")]
    (command,) = [shlex.split(text) for text in shown.splitlines() if text.startswith("    akdtune run ")]
    settings = data_settings(yaml.safe_load(line)["data"])
    assert settings.name == name
    if source.takes != "images":
        assert f"Holds {source.takes}: made for task: " in shown and command[2] in ("adaspec", "pkd")
        own = shown.partition("Settings of its own:")[2].partition("Settings of every data set:")
        listed = {key.partition(".")[0] for key in re.findall(r"^  ([\w.]+) ", own[0], re.MULTILINE)}
        assert listed == set(source.Settings.model_fields) - set(RowDataSettings.model_fields)
        return
    read = spec.load(command[2], command[3:]).data
    assert (read.name, read.validation, read.model_fields_set) == (name, 0.1, settings.model_fields_set)
    own = shown.partition("Settings of its own:")[2].partition("Settings of every data set:")
    assert sorted(re.findall(r"^  (\w+) ", own[0], re.MULTILINE)) == sorted(source.own_settings)
    every = set(re.findall(r"^  ([\w.]+) ", own[2], re.MULTILINE))
    assert every >= {"validation", "split_seed", "augmentation", "augmentation.cutout", "label_noise.fraction"}
    assert not {key.partition(".")[0] for key in every} & (OWNED_SETTINGS | {"name", "rehearsal"})
    assert re.search(r"^  validation +integer >= 0 or number > 0 and < 1 +needed +images held out", shown, re.MULTILINE)
    assert re.search(r"^  split_seed +integer +default 0 ", shown, re.MULTILINE)
    for key in source.required_settings:
        assert re.search(rf"^  {key} .* needed ", own[0], re.MULTILINE)


def test_what_is_known_of_a_data_set_is_shown() -> None:
    assert "\nImages: channels 3, size 32, num_classes 100\nOwn augmentation: {pad: 4, flip: true}\n" in (
        components.details("data", "cifar100")
    )
    assert "\nImages:" not in components.details("data", "parquet")


def test_lines_are_broken_to_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = components.details("data", "imagenet")
    assert main(["data", "imagenet"]) == 0
    assert capsys.readouterr().out == text
    monkeypatch.setattr(listing_commands, "columns", lambda: 80)
    assert main(["data", "imagenet"]) == 0
    broken = capsys.readouterr().out
    assert max(map(len, broken.splitlines())) <= 80
    assert broken.split() == text.split()


# Plug-ins


METHOD = """\
from akdtune.methods.kd import KD
from akdtune.registry import register

@register("{name}")
class Mine(KD):
    '''A method of mine.'''
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory for plug-ins; what is imported is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    with registry.kept():
        yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.mark.parametrize("asked", ["listed_one.py", "listed_one", "study.yaml"])
def test_what_a_plug_in_registers(plugins: Path, capsys: pytest.CaptureFixture[str], asked: str) -> None:
    (plugins / "listed_one.py").write_text(METHOD.format(name="mine_one"))
    (plugins / "study.yaml").write_text("base: digits_angular\nplugins: [listed_one]\n")
    for _ in range(2):
        assert main(["methods", "--plugins", asked]) == 0
        first, heading, row = capsys.readouterr().out.splitlines()
        assert first == f"{asked} registers 1 method"
        assert heading.split() == ["name", "about", "source", "signals"]
        assert row.startswith("mine_one  A method of mine  ")
    assert main(["views", "--plugins", asked]) == 0
    assert capsys.readouterr().out == f"{asked} registers no views, but methods: mine_one\n"
    assert main(["methods", "mine_one", "--plugins", asked]) == 0
    assert capsys.readouterr().out.startswith("method mine_one\n")


def test_what_is_wrong_with_plug_ins_is_one_message(plugins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (plugins / "listed_two.py").write_text(METHOD.format(name="kd"))
    (plugins / "listed_three.py").write_text("1 / 0\n")
    (plugins / "listed_four.py").write_text(
        "from akdtune.registry import register\nregister('odd', kind='methods')(lambda: 1)\n"
    )
    (plugins / "study.yaml").write_text("study: s\nplugins: [listed_two, listed_three, listed_four, gone]\n")
    assert main(["networks", "--plugins", "study.yaml"]) == 2
    message = capsys.readouterr().err.replace(f"{plugins.resolve()}/", "")
    assert message.startswith("akdtune: 4 problems:\n")
    assert "study.yaml:2: plugins: cannot import 'listed_two': method 'kd' is registered twice" in message
    assert "study.yaml:2: plugins: cannot import 'listed_three': ZeroDivisionError: division by zero" in message
    assert "study.yaml:2: plugins: cannot import 'gone': No module named 'gone'" in message
    assert "study.yaml: method odd: <function <lambda>" in message


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("gone.py", "gone.py: there is no such file"),
        ("gone_plugin", "gone_plugin: plugins: cannot import 'gone_plugin': No module named 'gone_plugin'"),
        ("gone.yaml", "gone.yaml: there is no such file"),
        ("digits_angular", "digits_angular: names no plug-ins (`plugins: [my_module]`)"),
    ],
)
def test_plug_ins_that_are_none(plugins: Path, capsys: pytest.CaptureFixture[str], asked: str, said: str) -> None:
    assert main(["methods", "--plugins", asked]) == 2
    assert capsys.readouterr().err.startswith(f"akdtune: {said}")
