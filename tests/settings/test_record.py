"""`record` is read strictly, stands in no lock where it asks for nothing, and changes no id."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from akdtune import registry
from akdtune.errors import SettingsError
from akdtune.settings.record import RecordSettings, held_record
from akdtune.study import spec

STUDY = """
study: small
data: {name: digits, validation: 600}
teacher: {network: {name: cnn, widths: [4, 8]}, epochs: 1}
student: {network: {name: cnn, widths: [2, 4]}}
views: {name: angular, variant: constrained, num_views: 2}
method: kd
training: {epochs: 1}
search: {algorithm: grid}
tracking: {wandb: null}
"""


def study(tmp_path: Path, more: str = "", text: str = STUDY) -> spec.Study:
    file = tmp_path / "small.yaml"
    file.write_text(text + more)
    return spec.load(str(file))


def problems(tmp_path: Path, more: str, text: str = STUDY) -> str:
    with pytest.raises(SettingsError) as caught:
        study(tmp_path, more, text)
    return str(caught.value)


def test_by_default_the_teacher_is_kept_and_nothing_is_written_down() -> None:
    settings = RecordSettings()
    assert (settings.predictions, settings.teacher, settings.views) == ("float32", True, False)
    assert (settings.features, settings.attention_images, settings.augmented, settings.train) == (0, 0, False, False)
    assert settings.model_dump(mode="json") == {}
    assert held_record(None) == held_record({}) == settings


def test_images_of_attention_are_a_number_or_written_out() -> None:
    written_out = RecordSettings(attention={"images": 7})  # type: ignore[arg-type]
    assert written_out == RecordSettings(attention=7)
    assert written_out.attention_images == 7 and written_out.model_dump(mode="json") == {"attention": 7}


def test_what_is_held_comes_back_and_what_another_version_knows_is_passed_over() -> None:
    held = {"predictions": "float16", "teacher": False, "answers": False, "attention": 3}
    assert held_record({**held, "gradients": True}).model_dump(mode="json") == held


@pytest.mark.parametrize(
    "given", [{"predictions": "float8"}, {"features": -1}, {"attention": {"images": 0}}, {"views": "test"}, {"view": 1}]
)
def test_anything_else_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RecordSettings(**given)


def test_a_study_that_asks_for_nothing_is_written_as_ever(tmp_path: Path) -> None:
    assert "record" not in study(tmp_path).resolved()
    assert "record" not in study(tmp_path, "record: {teacher: true, predictions: float32}\n").resolved()
    assert "record" not in study(tmp_path, "record: null\n").resolved()
    asked = study(tmp_path, "record: {views: true, attention: {images: 5}}\n").resolved()
    assert asked["record"] == {"views": True, "attention": 5}
    assert {key: value for key, value in asked.items() if key != "record"} == study(tmp_path).resolved()


def test_mistakes_name_file_line_and_what_is_allowed(tmp_path: Path) -> None:
    message = problems(tmp_path, "record: {predictions: half}\n")
    assert "small.yaml:11: record.predictions: must be one of 'float32', 'float16', got 'half'" in message
    assert "did you mean 'views'?" in problems(tmp_path, "record: {view: true}\n")
    message = problems(tmp_path, "record: {attention: {images: 0}}\n")
    assert message.endswith("small.yaml:11: record.attention.images: must be above 0, got 0"), "once"
    assert problems(tmp_path, "record: {attention: many}\n").endswith("must be a whole number, got 'many'")
    assert "cannot be searched over" in problems(tmp_path, "record: {views: {choice: [true, false]}}\n")


PLUGIN = """
from torch import nn
from akdtune.networks import Network
from akdtune.registry import register
from akdtune.signals import Signals


@register("mapless")
class Mapless(Network):
    offers = frozenset()

    def __init__(self, settings, inputs):
        super().__init__(settings, inputs)
        self.fc = nn.Linear(inputs.channels * inputs.size**2, inputs.num_classes)
        self.pooled_dim = inputs.channels * inputs.size**2

    def forward(self, images_BCHW, stages=False):
        pooled_BC = images_BCHW.flatten(1)
        return Signals(self.fc(pooled_BC), pooled_BC)

    def classifier(self):
        return self.fc.weight, self.fc.bias
"""


def test_attention_needs_networks_with_a_last_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mapless_networks.py").write_text(PLUGIN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    changed = STUDY.replace("{name: cnn, widths: [2, 4]}", "mapless") + "plugins: [mapless_networks]\n"
    with registry.kept():
        message = problems(tmp_path, "record: {attention: 5}\n", changed)
        assert "record.attention: the student network 'mapless' offers no last_map" in message
        both = changed.replace("network: {name: cnn, widths: [4, 8]}", "network: mapless")
        message = problems(tmp_path, "record: {attention: 5}\n", both)
        assert "the student network 'mapless' and the teacher network 'mapless' offer no last_map" in message
        assert study(tmp_path, "record: {features: 5, views: true}\n", changed).record.features == 5


VIEWS = "views: {name: angular, variant: constrained, num_views: 2}"


@pytest.mark.parametrize(
    ("views", "method", "record", "words"),
    [
        (VIEWS, "kd", "{attention: 5, views: true, features: 5}", None),
        ("views: tekap", "kd", "{attention: 5}", "record.attention: keeps no maps of the views 'tekap': what they say"),
        ("views: none", "kd", "{views: true}", "record.views: is ignored: no trial has views"),
        ("views: none", "simkd", "{attention: 5}", "keeps no maps of students of 'simkd', which predict through"),
    ],
)
def test_what_some_trials_have_not_is_said(
    tmp_path: Path, views: str, method: str, record: str, words: str | None
) -> None:
    text = STUDY.replace(VIEWS, views).replace("method: kd", f"method: {method}")
    known = study(tmp_path, "", text).warnings
    more = [line for line in study(tmp_path, f"record: {record}\n", text).warnings if line not in known]
    assert len(more) == (words is not None)
    assert words is None or words in more[0]


def test_answers_that_no_network_gives_are_pointed_out(tmp_path: Path) -> None:
    (warning,) = study(tmp_path, "record: {answers: true}\n").warnings
    assert "record.answers: is ignored: 'cnn' gives one answer" in warning
    assert not study(tmp_path, "record: {answers: false}\n").warnings
    spiking = STUDY.replace("{name: cnn, widths: [2, 4]}", "lif")
    assert not study(tmp_path, "record: {answers: true}\n", spiking).warnings
