"""Language: acceptance and what follows from it by hand, bounded parts, what is kept of predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from akdtune import networks
from akdtune.data.windows import LONGEST, WindowSplit
from akdtune.errors import NotRecorded
from akdtune.records import recorded, recorded_files
from akdtune.records.files import read_table
from akdtune.registry import lookup
from akdtune.reports.ablation.predictions import _read
from akdtune.signals import Inputs, Signals, Tokens
from akdtune.tasks.language import LanguageTask, acceptance_R, block_efficiency, continued
from akdtune.training.likeliest import KEPT, Likeliest, likeliest_of
from akdtune.training.trial import Trial
from tests.small_texts import LANGUAGE, TARGET, configured, texts
from tests.small_trials import numbers


def said(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).log()


def test_acceptance_by_hand() -> None:
    target, draft = said((0.7, 0.2, 0.1), (0.5, 0.5, 0.0)), said((0.1, 0.6, 0.3), (0.0, 0.5, 0.5))
    torch.testing.assert_close(acceptance_R(draft, target), torch.tensor([100 * (0.1 + 0.2 + 0.1), 50.0]))
    assert torch.equal(acceptance_R(draft, target), acceptance_R(target, draft))
    assert acceptance_R(said((1.0, 0.0)), said((0.0, 1.0))).tolist() == [0.0]


def test_the_target_accepts_itself_to_the_last_bit() -> None:
    logits_RK = 9 * torch.randn(2000, 101, generator=torch.Generator().manual_seed(0))
    assert not (torch.softmax(logits_RK, dim=-1).sum(dim=-1) == 1).all(), "whose probabilities do not sum to 1 exactly"
    assert acceptance_R(logits_RK, logits_RK.clone()).eq(100).all()
    split = texts().split("subset").test
    assert isinstance(split, WindowSplit)
    network = networks.build(TARGET, texts().inputs, 0).eval()
    meter, task = LanguageTask(LanguageTask.Settings()).meter(), LanguageTask(LanguageTask.Settings())
    with torch.no_grad():
        for rows_R, inputs in split.plain_batches(3):
            meter.update(network(inputs), network(inputs), split.labels_N[rows_R])
    row = meter.result()
    assert (row["acceptance"], row["block_efficiency"], row["agreement"], row["js_divergence"]) == (100, 5, 100, 0)
    assert task.last_measures(network, network, split, "") == {"sampled_acceptance": 100}


@pytest.mark.parametrize(("acceptance", "tokens"), [(0.0, 1.0), (0.5, 1.9375), (0.8, 3.3616), (1.0, 5.0)])
def test_block_efficiency_by_hand(acceptance: float, tokens: float) -> None:
    assert block_efficiency(acceptance, 4) == pytest.approx(tokens)
    if acceptance < 1:
        assert block_efficiency(acceptance, 4) == pytest.approx((1 - acceptance**5) / (1 - acceptance))


class Always:
    """A network that says the same distribution everywhere, or one that follows from the last token."""

    def __init__(self, *rows: tuple[float, ...]) -> None:
        self.table_KK = said(*rows)

    def __call__(self, inputs: Inputs) -> Signals:
        last_R = inputs.ids_BL[inputs.rows_BL] % len(self.table_KK)
        return Signals.of(self.table_KK[last_R])


def test_the_target_writes_what_is_a_row_and_leaves_the_rest() -> None:
    ids_BL = torch.zeros(400, 6, dtype=torch.int64)
    rows_BL = torch.tensor([False, True, True, False, True, True]).expand(400, 6)
    target = Always((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.25, 0.0, 0.75))
    written = continued(target, Tokens(ids_BL, rows_BL), torch.Generator().manual_seed(0))
    assert torch.equal(written.ids_BL[:, :4], torch.tensor([0, 0, 1, 2]).expand(400, 4))
    assert written.ids_BL[:, 4].eq(0).all(), "the place behind one that is no row keeps its token"
    assert written.ids_BL[:, 5].eq(1).all()
    certain = Always((0.25, 0.0, 0.75))
    drawn = continued(certain, Tokens(ids_BL, torch.ones_like(rows_BL)), torch.Generator().manual_seed(0)).ids_BL[:, 1:]
    assert set(drawn.unique().tolist()) == {0, 2}
    assert float((drawn == 2).float().mean()) == pytest.approx(0.75, abs=0.03)


def test_sampled_acceptance_is_that_of_contexts_that_the_target_wrote() -> None:
    split = texts().split("subset").test
    task = LanguageTask(LanguageTask.Settings(sampled_windows=8))
    target, draft = Always((0.7, 0.3)), Always((0.4, 0.6))
    row = task.last_measures(draft, target, split, "")
    assert row["sampled_acceptance"] == pytest.approx(70)
    assert LanguageTask(LanguageTask.Settings(sampled_windows=0)).last_measures(draft, target, split, "") == {}


def closed(role: str, **changes: Any) -> tuple[Trial, list[dict[str, Any]], dict[str, Any], Any]:
    config = configured({"name": "none"}, [{"name": "kd", "temperature": 1}], changes={"role": role})
    trial = Trial(config)
    rows = [epoch.row for epoch in trial.run()]
    return (trial, rows, *trial.close())


def test_a_trial_and_what_it_keeps() -> None:
    trial, rows, row, predictions = closed("ablation")
    assert "val_acceptance" not in rows[-1]
    split = trial.splits.test
    assert row["test_acceptance"] == pytest.approx(float(predictions.values_N.double().mean()))
    assert 0 <= row["sampled_acceptance"] <= 100
    assert row["block_efficiency"] == pytest.approx(block_efficiency(row["test_acceptance"] / 100, 4))
    assert predictions.logits_NK is None
    assert torch.equal(predictions.groups_N, predictions.sample_ids_N // LONGEST)
    assert len(predictions.groups_N.unique()) == split.items == 8
    likeliest = predictions.likeliest
    with torch.no_grad():
        whole = networks.signals(trial.evaluation.asked_student(), split, 256)
    log_p_NK = torch.log_softmax(whole.logits_BK, dim=-1)
    assert likeliest.classes_RT.shape == likeliest.log_p_RT.shape == (len(split), KEPT)
    assert torch.equal(likeliest.classes_RT[:, 0].long(), whole.logits_BK.argmax(dim=1))
    torch.testing.assert_close(likeliest.log_p_label_R, log_p_NK[torch.arange(len(split)), split.labels_N])
    assert row["nll"] == pytest.approx(-float(likeliest.log_p_label_R.double().mean()))
    torch.testing.assert_close(likeliest.log_p_RT, log_p_NK.gather(1, likeliest.classes_RT.long()))
    assert row["accuracy"] == pytest.approx(100 * float((likeliest.classes_RT[:, 0] == split.labels_N).double().mean()))


def test_validation_rows_say_it_in_every_epoch_and_contexts_of_the_target_in_the_last() -> None:
    trial, rows, row, predictions = closed("search")
    assert [row["val_acceptance"] > 0 for row in rows] == [True, True]
    assert ["sampled_acceptance" in row for row in rows] == [False, True]
    assert row == {}
    assert float(predictions.values_N.double().mean()) == pytest.approx(rows[-1]["val_acceptance"])
    known = {column.name for column in trial.columns}
    assert {name for name in rows[-1] if not name.startswith("loss.")} <= known


def test_parts_do_not_change_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = closed("ablation")
    monkeypatch.setattr(WindowSplit, "at_once", 3)
    parts = closed("ablation")
    torch.testing.assert_close(parts[3].values_N, whole[3].values_N)
    for name, value in whole[2].items():
        if value is None:
            continue
        assert parts[2][name] == pytest.approx(value, rel=1e-5), name


def test_nothing_of_all_rows_and_classes_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    of = Likeliest.of

    def watched(logits_RK: Tensor, labels_R: Tensor) -> Likeliest:
        nonlocal most
        most = max(most, len(logits_RK))
        return of(logits_RK, labels_R)

    monkeypatch.setattr(WindowSplit, "at_once", 2)
    monkeypatch.setattr(Likeliest, "of", staticmethod(watched))
    refuse = lambda *_: pytest.fail("asks about a whole split")  # noqa: E731
    monkeypatch.setattr(networks, "signals", refuse)
    trial, *_ = closed("ablation")
    assert most <= 2 * texts().inputs.length < len(trial.splits.test)


def test_files_hold_the_likeliest_tokens_in_place_of_logits(tmp_path: Path) -> None:
    _, _, _, predictions = closed("ablation")
    of = predictions.likeliest
    tops = recorded_files.TopClasses(of.log_p_label_R.numpy(), of.classes_RT.numpy(), of.log_p_RT.numpy())
    about = predictions.sample_ids_N.numpy(), predictions.labels_N.numpy()
    values_N, groups_N = predictions.values_N.numpy(), predictions.groups_N.numpy()
    recorded_files.write_trial_tops(tmp_path / "one.parquet", *about, tops, values_N=values_N, groups_N=groups_N)
    table = read_table(tmp_path / "one.parquet")
    assert table.column_names == ["sample_id", "label", "value", "group", "log_p_label", "top_ids", "top_log_p"]
    assert table["top_ids"].to_pylist() == of.classes_RT.tolist()
    assert np.array_equal(table["top_log_p"].combine_chunks().flatten(), of.log_p_RT.flatten())
    recorded_files.write_teacher_tops(tmp_path / "teachers.parquet", *about, [tops, tops])
    names = read_table(tmp_path / "teachers.parquet").column_names
    assert names[2:4] == ["log_p_label_0", "log_p_label_1"]
    assert set(names[4:]) == {"top_ids_0", "top_log_p_0", "top_ids_1", "top_log_p_1"}


def test_readers_know_the_likeliest_tokens(tmp_path: Path) -> None:
    """The bootstrap reads values, windows and answers; whoever needs all logits is told that there are none."""
    ids_N, labels_N = np.array([7, 3, 5]), np.array([1, 0, 2])
    classes_NT = np.array([[1, 0], [2, 1], [2, 0]], np.int32)
    tops = recorded_files.TopClasses(np.zeros(3, np.float32), classes_NT, np.log(np.full((3, 2), 0.4, np.float32)))
    (tmp_path / recorded_files.FOLDER).mkdir()
    recorded_files.write_teacher_tops(recorded_files.teacher_logits_file(tmp_path, "test"), ids_N, labels_N, [tops])
    found = recorded.teacher_classes(tmp_path)
    assert [part.tolist() for part in found] == [[3, 5, 7], [0, 2, 1], [2, 2, 1]]
    with pytest.raises(NotRecorded, match="holds the likeliest classes of each row alone"):
        recorded.teacher_logits(tmp_path)
    file = tmp_path / "predictions.parquet"
    values_N, groups_N = np.array([10, 20, 30], np.float32), np.array([1, 0, 0])
    recorded_files.write_trial_tops(file, ids_N, labels_N, tops, values_N=values_N, groups_N=groups_N)
    held = _read(file)
    assert (held.values_N.tolist(), held.answers_N.tolist()) == ([20, 30, 10], [2, 2, 1])
    assert held.groups_N is not None
    assert held.groups_N.tolist() == [0, 0, 1]


def test_few_classes_are_all_kept() -> None:
    logits_RK = torch.randn(4, 3)
    assert Likeliest.of(logits_RK, torch.tensor([0, 1, 2, 0])).classes_RT.shape == (4, 3)


def test_teachers_are_asked_in_parts() -> None:
    trial, *_ = closed("ablation")
    assert trial.teacher is not None
    found = likeliest_of(trial.teacher.network, trial.splits.test)
    with torch.no_grad():
        whole = networks.signals(trial.teacher.network, trial.splits.test, 256)
    assert torch.equal(found.classes_RT[:, 0].long(), whole.logits_BK.argmax(dim=1))


def test_what_the_task_is_called_and_takes() -> None:
    task = lookup("tasks", "language")
    assert (task.metric.name, task.takes, task.in_parts, task.needs_teacher) == ("acceptance", "tokens", True, True)
    assert LANGUAGE["name"] == "language"
    assert replace(configured({"name": "none"}, [{"name": "kd"}]), role="search").task.settings.gamma == 4


def test_a_trial_goes_on_from_any_epoch_with_the_same_numbers() -> None:
    def trial() -> Trial:
        return Trial(configured({"name": "tekap", "level": "logit"}, [{"name": "kd", "divergence": "jsd"}]))

    whole = list(trial().run())
    again = list(trial().run(whole[0].state))
    assert numbers(again) == numbers(whole[1:])
