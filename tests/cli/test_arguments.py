"""Options and commands that do not exist are answered with what was meant, in one message."""

from __future__ import annotations

import pytest

from akdtune import cli


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("akdtune: ")
    return captured.err.removeprefix("akdtune: ")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--trials", "48"], "--trials 48: there is no such option; settings are written key=value: search.trials=48"),
        (["--seed", "3"], "settings are written key=value: search.seed=3"),
        (["--epochs=20"], "settings are written key=value: training.epochs=20 or teacher.epochs=20"),
        (["--lr", ".1"], "settings are written key=value: training.lr=.1"),
        (["--gpus", "1"], "settings are written key=value: resources.gpu=1\n"),
        (["--margin", ".2"], "settings are written key=value: views.margin=.2\n"),
        (["--batch-size", "128"], "settings are written key=value: training.batch_size=128"),
        (["--search.trials=48"], "settings are written key=value: search.trials=48\n"),
        (["--num-views", "1,3"], "settings are written key=value: 'views.num_views={choice: [1, 3]}'\n"),
        (["--tf32"], "settings are written key=value: training.tf32=true\n"),
        (["--extnd"], "--extnd: there is no such option; did you mean --extend?"),
        (["--output", "x"], "did you mean --dir x?"),
        (["--resume"], "the same command again goes on where it stopped"),
        (["--flavour", "mint"], "none is called 'flavour'"),
    ],
)
def test_an_option_that_is_a_setting(capsys: pytest.CaptureFixture[str], words: list[str], answer: str) -> None:
    assert answer in refused(capsys, "run", "digits_angular", *words)
    assert answer in refused(capsys, "run", *words, "digits_angular")


@pytest.mark.parametrize("command", [["plan"], ["rehearse"], ["teacher", "train"], ["teacher", "fill"]])
def test_every_command_with_overrides_says_so(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert "search.trials=4 or" in refused(capsys, *command, "digits_angular", "--trials", "4")


def test_all_of_them_in_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    lines = refused(capsys, "run", "digits_angular", "--trials", "48", "--dir", "x", "--lr", ".1").splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == ["--trials 48", "--lr .1"]
    assert lines[-1] == "(`akdtune run --help` lists the options)"


def test_negative_numbers_are_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert "search.seed=-3" in refused(capsys, "run", "digits_angular", "--seed", "-3")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["rnu"], "unknown command 'rnu'; did you mean 'run'? (allowed: "),
        (["digits_angular", "search.trials=4"], "did you mean `akdtune run digits_angular search.trials=4`?"),
        (["mine.yaml"], "did you mean `akdtune run mine.yaml`?"),
        (["train", "mine.yaml"], "did you mean `akdtune run mine.yaml`?"),
        (["status", "mine"], "did you mean `akdtune show mine`?"),
        (["help"], "did you mean `akdtune --help`?"),
        (["teacher", "trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["run", "search.trials=4"], "there is no such file; the settings file stands first, overrides behind it"),
    ],
)
def test_a_command_that_is_none(capsys: pytest.CaptureFixture[str], words: list[str], answer: str) -> None:
    assert answer in refused(capsys, *words)
