"""What is listed is what is registered, and what is shown is what the code says."""

from __future__ import annotations

import pytest
from pydantic import Field

from akdtune import registry
from akdtune.cli import components, main
from akdtune.registry import Component, ComponentSettings, Kind, Pair, lookup

KINDS: tuple[Kind, ...] = ("methods", "views", "networks", "data")


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
        assert all(key in shown for key in model.model_fields)


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
