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
    assert sorted(row.name for row in rows) == registry.names(kind)
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
    assert "resnet56 to resnet20: " in shown
    assert "beta 2" in shown


def test_published_settings_are_shown_as_the_resolver_takes_them() -> None:
    for pair in components.PAIRS:
        published = lookup("methods", "dkd").published(pair)
        line = f"{pair.data}, {pair.teacher} to {pair.student}: "
        assert (line in components.details("methods", "dkd")) is bool(published)


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
