"""`akdtune verify`: nothing is found in what trials wrote, and every number that was changed is named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akdtune import cli
from akdtune.records.check_words import with_check
from akdtune.verification import report
from akdtune.verification.checks import Check, exit_code
from akdtune.verification.report import Asked
from tests.study_fixture import StudyBuilder
from tests.trained_study import trained_study

NOTHING = Asked()


def checked(study: Path, asked: Asked = NOTHING) -> dict[str, Check]:
    return {check.name: check for check in report.verify(study, asked, lambda *_: None)}


def found(study: Path) -> dict[str, tuple[str, ...]]:
    """What is wrong, by check."""
    return {name: tuple(check.found) for name, check in checked(study).items() if check.found}


def done(study: Path) -> str:
    """A trial that came to its end."""
    return next(path.parent.name for path in sorted(study.glob("trials/*/outcome.json")))


def with_value(path: Path, column: str, row: int, value: Any) -> None:
    """Changes one value of a Parquet file and nothing else."""
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, table.schema.field(column), pa.array(values, table[column].type)), path)


def without_check(line: str) -> str:
    return re.sub(r', "check": .*', "}", line.rstrip("\n"))


def lines(study: Path) -> list[str]:
    return (study / "ledger.jsonl").read_text().splitlines(keepends=True)


# ------------------------------------------------------------------------------------------------------- all right


def test_nothing_is_found_in_what_trials_wrote_and_nothing_is_written(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    checks = checked(study)
    assert {name: check.status for name, check in checks.items()} == dict.fromkeys(
        ("lock", "plan", "ledger", "exactly once", "data", "teacher", "rows", "outcomes", "predictions",
         "teacher logits", "saved states", "trials.parquet", "epochs.parquet", "versions"),
        "ok",
    )  # fmt: skip
    assert checks["predictions"].said == "accuracy recomputed of 3 trials, labels are the data's"
    assert "has its digest" in checks["lock"].said and "without a check word" not in checks["ledger"].said
    assert cli.main(["verify", str(study)]) == 0
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith("all right: everything at hand is what the trials wrote")
    assert all(len(line) <= 80 for line in printed.splitlines()[1:])
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*")} == before


def test_a_trial_trained_again_is_equal_to_the_last_bit(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = done(study)
    before = sorted(study.rglob("*"))
    assert cli.main(["verify", str(study), "--trial", trial[:5]]) == 0
    assert "3 epochs and predictions equal to the last bit" in " ".join(capsys.readouterr().out.split())
    assert sorted(study.rglob("*")) == before
    assert cli.main(["verify", str(study), "--trial", "nosuch"]) == 2
    assert cli.main(["verify", str(study), "--rerun", "4"]) == 2
    assert "--rerun 4: 3 trials are done" in capsys.readouterr().err


def test_a_row_that_was_changed_everywhere_is_found_by_training_again(study: Path) -> None:
    """Rows, compacted tables, ledger, digests and check words agree: only training says that it is not so."""
    trial = done(study)
    with_value(study / "trials" / trial / "epochs.parquet", "train_accuracy", 1, 12.5)
    (rerun,) = (check for name, check in checked(study, Asked(trials=[trial])).items() if name.startswith("rerun"))
    assert rerun.status == "found"
    assert rerun.found[0].startswith(f"trials/{trial}/epochs.parquet, train_accuracy, first at epoch 2: stored 12.5")


def test_another_processor_makes_equality_not_to_be_expected(study: Path) -> None:
    trial = done(study)
    with_value(study / "trials" / trial / "epochs.parquet", "train_accuracy", 1, 12.5)
    changed = [without_check(line).replace('"processor": "', '"processor": "Other ') for line in lines(study)]
    ledger = [with_check(line) + "\n" for line in changed]
    (study / "ledger.jsonl").write_text("".join(ledger))
    checks = checked(study, Asked(trials=[trial]))
    rerun = checks[f"rerun {trial}"]
    assert rerun.status == "differs" and "not to be expected: processor Other " in rerun.said
    assert checks["versions"].status == "differs"
    assert exit_code([rerun]) == 2, "it could not be verified"


# --------------------------------------------------------------------------------------------------- what is changed


def _of_trials(study: Path) -> str:
    with_value(study / "trials.parquet", "val_accuracy", 1, 99.5)
    return "trials.parquet"


def _of_pandas(study: Path) -> str:
    _of_trials(study)
    pq.write_table(pq.read_table(study / "trials.parquet").replace_schema_metadata(None), study / "trials.parquet")
    return "trials.parquet"


def _of_compacted(study: Path) -> str:
    with_value(study / "epochs.parquet", "val_accuracy", 4, 99.5)
    return "epochs.parquet"


def _of_ledger(study: Path) -> str:
    changed = [
        line.replace('"value": ', '"value": 9', 1) if '"event": "epoch"' in line else line for line in lines(study)
    ]
    (study / "ledger.jsonl").write_text("".join(changed))
    return "ledger"


def _of_a_time(study: Path) -> str:
    first, *rest = lines(study)
    (study / "ledger.jsonl").write_text(first.replace('"time": ', '"time": 1', 1) + "".join(rest))
    return "ledger"


def _of_outcome(study: Path) -> str:
    path = study / "trials" / done(study) / "outcome.json"
    path.write_text(path.read_text().replace('"epoch": 3', '"epoch": 2'))
    return "outcomes"


def _of_lock(study: Path) -> str:
    path = study / "study.lock.yaml"
    path.write_text(path.read_text().replace("batch_size: 64", "batch_size: 65"))
    return "lock"


def _of_plan(study: Path) -> str:
    settings = pq.read_table(study / "plan.parquet")["settings"].to_pylist()[0]
    with_value(study / "plan.parquet", "settings", 0, settings.replace('"batch_size": 64', '"batch_size": 65'))
    return "plan"


def _of_state(study: Path) -> str:
    path = study / "trials" / done(study) / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return "saved states"


def _of_predictions(study: Path) -> str:
    with_value(study / "trials" / done(study) / "predictions.parquet", "label", 0, 11)
    return "predictions"


def _of_a_line(study: Path) -> str:
    kept = [line for line in lines(study) if not ('"epoch": 2,' in line and '"event": "epoch"' in line)]
    (study / "ledger.jsonl").write_text("".join(kept))
    return "exactly once"


def _of_an_end(study: Path) -> str:
    ends = [line for line in lines(study) if '"event": "done"' in line]
    with (study / "ledger.jsonl").open("a") as ledger:
        ledger.write(ends[0])
    return "exactly once"


def _of_teachers(study: Path) -> str:
    with_value(study / "predictions" / "teacher-validation.parquet", "label", 0, 11)
    return "teacher logits"


CHANGES: list[Callable[[Path], str]] = [
    _of_trials, _of_pandas, _of_compacted, _of_ledger, _of_a_time, _of_outcome, _of_lock, _of_plan, _of_state,
    _of_predictions, _of_a_line, _of_an_end, _of_teachers,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=[change.__name__.removeprefix("_of_") for change in CHANGES])
def test_what_was_changed_by_hand_is_found(study: Path, change: Callable[[Path], str]) -> None:
    named = change(study)
    assert named in found(study)


def test_a_finding_names_file_trial_column_and_both_values(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = pq.read_table(study / "trials.parquet")
    trial, value = (whole[name].to_pylist()[1] for name in ("trial_id", "val_accuracy"))
    _of_trials(study)
    sentence = f"trials.parquet, trial {trial}, val_accuracy: stored 99.5, recomputed {value!r}"
    assert found(study) == {"trials.parquet": (sentence,)}
    assert cli.main(["verify", str(study)]) == 1
    printed = capsys.readouterr().out
    assert sentence in " ".join(printed.split()) and "1 thing found (trials.parquet)" in printed


def test_an_outcome_says_what_the_ledger_has(study: Path) -> None:
    _of_outcome(study)
    (sentence,) = found(study)["outcomes"]
    assert "outcome.json" in sentence and sentence.endswith("epoch: stored 2, the ledger has 3")


def test_a_changed_line_is_told_with_its_number_and_against_the_rows(study: Path) -> None:
    before = lines(study)
    number = next(place for place, line in enumerate(before) if '"event": "epoch"' in line)
    event = json.loads(before[number])
    before[number] = before[number].replace(f'"value": {event["value"]}', '"value": 77.5')
    (study / "ledger.jsonl").write_text("".join(before))
    trial, value = event["trial_id"], event["value"]
    assert found(study) == {
        "ledger": (f"ledger.jsonl, line {number + 1} (epoch 1 of trial {trial}): was changed after it was written",),
        "rows": (f"ledger.jsonl and trials/{trial}/epochs.parquet, epoch 1, val_accuracy: 77.5 and {value!r}",),
    }


def test_ledgers_of_earlier_versions_have_no_check_words(study: Path) -> None:
    old = [without_check(line) + "\n" for line in lines(study)]
    (study / "ledger.jsonl").write_text("".join(old))
    ledger = checked(study)["ledger"]
    assert ledger.status == "ok" and f"{len(old)} of an earlier version without a check word" in ledger.said
    (study / "ledger.jsonl").write_text("".join([*lines(study)[:-2]]))
    with_words = [*lines(study)[:3], with_check(old[3].rstrip("\n")) + "\n", *old[4:]]
    (study / "ledger.jsonl").write_text("".join(with_words))
    assert "has no check word, and earlier lines have one" in found(study)["ledger"][0]


# ------------------------------------------------------------------------------------------------------ not at hand


def test_what_is_not_at_hand_is_said_and_makes_nothing_wrong(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = study / "study.lock.yaml"
    text = re.sub(r"(?m)^digest: .*\n", "", lock.read_text())
    lock.write_text(re.sub(r"path: .*teacher\.pt", f"path: {tmp_path}/gone.pt", text))
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "empty"))
    for path in study.glob("trials/*/checkpoint.pt"):
        path.unlink()
    trial = done(study)
    (study / "trials" / trial / "predictions.parquet").unlink()
    checks = checked(study)
    assert checks["teacher"].status == checks["saved states"].status == "not at hand"
    assert checks["predictions"].said.endswith("; 1 without predictions.parquet")
    assert cli.main(["verify", str(study)]) == 0
    assert "not at hand: teacher, saved states" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["verify", str(study), "--trial", trial]) == 2, "it was asked for"


def test_a_directory_without_a_lock_cannot_be_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builder = StudyBuilder(tmp_path / "run")
    builder.add("angular/kd", 60.0, None, role="search")
    assert cli.main(["verify", str(builder.write())]) in (1, 2)
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert "is no study directory" in capsys.readouterr().err


def test_a_running_study_has_trials_without_an_end(study: Path) -> None:
    """Cut where a driver was killed: nothing is wrong with what is there."""
    trial = json.loads(next(line for line in reversed(lines(study)) if '"event": "done"' in line))["trial_id"]
    kept = [
        line for line in lines(study) if '"study_finished"' not in line and not (trial in line and '"done"' in line)
    ]
    (study / "ledger.jsonl").write_text("".join(kept) + '{"time": 1.0, "event": "ep')
    (study / "trials" / trial / "outcome.json").unlink()
    checks = checked(study)
    assert checks["exactly once"].status == "ok" and checks["exactly once"].said.endswith("the study runs")
    assert all(check.status == "ok" for name, check in checks.items())


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished study that keeps everything of its networks."""
    folder = tmp_path_factory.mktemp("kept")
    record = "{predictions: float16, views: true, features: 5, attention: 3, augmented: true, train: true}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AKDTUNE_CACHE", str(folder / "cache"))
        yield trained_study(folder / "runs" / "kept", folder, f"record: {record}\n")


def test_what_is_kept_of_networks_is_verified_and_comes_out_the_same_again(kept: Path) -> None:
    checks = checked(kept, Asked(rerun=1))
    assert {name: check.found for name, check in checks.items() if check.found} == {}
    assert exit_code(list(checks.values())) == 0
    (again,) = [check for name, check in checks.items() if name.startswith("rerun")]
    assert again.status == "ok" and "equal to the last bit" in again.said
    assert checks["teacher logits"].said == "4 files about teachers, accuracy as trials measured it"
    assert checks["outcomes"].said.endswith("digests of rows and predictions"), checks["outcomes"].said


def test_a_kept_file_that_was_changed_is_found(kept: Path, tmp_path: Path) -> None:
    study = tmp_path / "kept"
    shutil.copytree(kept, study)
    path = study / "trials" / done(study) / "features.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 2), path)
    assert any("features.parquet: is not what the trial wrote" in line for line in found(study)["outcomes"])
