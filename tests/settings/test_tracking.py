"""Names that Weights & Biases refuses are refused when the settings are read."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from akdtune.settings.tracking import TrackingSettings, WandbSettings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"project": "team/p"}, "'team/p' holds /, .*; write entity: team, project: p$"),
        ({"project": "a/b/c"}, r"'a/b/c' holds /, and Weights & Biases takes none of / \\ # \? % : in a name$"),
        ({"project": "/p"}, "holds /[^;]*$"),
        ({"project": "50%"}, "holds %"),
        ({"project": "a:b?c"}, "holds : \\?"),
        ({"project": ""}, "'' is empty"),
        ({"project": "  "}, "is empty"),
        ({"project": " p"}, "spaces around it"),
        ({"project": "a\nb"}, "line breaks"),
        ({"project": "x" * 129}, "has 129 characters, and Weights & Biases takes 128"),
        ({"entity": "team/p"}, "'team/p' holds /[^;]*$"),
        ({"entity": ""}, "is empty"),
        ({"tags": ["a", ""]}, "a tag has 1 to 64 characters, '' has 0"),
        ({"tags": ["x" * 65]}, "'xxxxxxxxxxxxxxxxxxxx' has 65"),
        ({"tags": ["  "]}, "a tag is text on one line, got '  '"),
        ({"tags": ["a\nb"]}, r"a tag is text on one line, got 'a\\nb'"),
    ],
)
def test_what_would_cost_every_run_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        WandbSettings(**given)  # type: ignore[arg-type]
    assert caught.match("(?m)" + words.replace("$", r"( \[type.*)?$"))


def test_what_it_takes_is_taken() -> None:
    settings = WandbSettings(project="Großes Projekt-1_a.b", entity="my-team", tags=["x" * 64, "a/b:c"])
    assert settings.project == "Großes Projekt-1_a.b"
    assert TrackingSettings().wandb is None
    assert WandbSettings().system_metrics == "auto"
    assert WandbSettings(system_metrics=False).system_metrics is False
