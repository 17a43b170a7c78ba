"""What is read off a trial's networks at its end is what they say, and leaves what was trained as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune.registry import lookup, names
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import TeacherSettings
from akdtune.settings.training import Seeds
from akdtune.signals import Signals
from akdtune.training.config import TrialConfig
from akdtune.training.measures import STOCHASTIC_DRAWS, fixed_views
from akdtune.training.recording import Recording, class_maps
from akdtune.training.trial import Trial
from tests import small_world
from tests.small_trials import ANGULAR, DIGITS, configured, trained

DATA = DataSettings(**DIGITS, label_noise={"fraction": 0.2})
OTHER = TeacherSettings(network={"name": "cnn", "widths": [4, 8, 8]}, epochs=1, batch_size=32, seed=1)
SHORT: dict[str, Any] = {**ANGULAR, "warmup_epochs": 1}
TEKAP = {"name": "tekap", "number": 2, "feature_number": 3, "level": "both"}


def config(views: dict[str, Any], *others: TeacherSettings, **changes: Any) -> TrialConfig:
    method = changes.pop("method", {"name": "kd"})
    teachers = replace(trained(DATA), others=tuple(trained(DATA, of) for of in others))
    return configured(DATA, teachers, views, [method], changes=changes, epochs=1)


def closed(views: dict[str, Any], *others: TeacherSettings, **changes: Any) -> Trial:
    """A trial that has come to its end."""
    trial = Trial(config(views, *others, **changes))
    list(trial.run())
    trial.close()
    return trial


def test_recording_everything_leaves_the_trial_as_it_was() -> None:
    trial = closed(SHORT)
    before = [tensor.clone() for tensor in (*trial.student.state_dict().values(), *trial.views.state_dict().values())]
    closing, predictions = trial.close()
    recording = trial.recording()
    _everything(recording)
    after = [*trial.student.state_dict().values(), *trial.views.state_dict().values()]
    assert all(map(torch.equal, before, after))
    again, same = trial.close()
    assert again == closing and torch.equal(same.logits_NK, predictions.logits_NK)


def _everything(recording: Recording) -> dict[str, Any]:
    return {
        "views": recording.views(),
        "features": recording.features(7),
        "attention": recording.attention(5),
        "augmented": recording.augmented(),
        "train": recording.plain_train_accuracy(),
        "logits": recording.teacher_logits(),
        "of_teachers": recording.teacher_features(7),
        "maps": recording.teacher_attention(5),
        "seen": recording.teacher_augmented(),
    }


def test_each_is_the_same_whenever_it_is_asked_for() -> None:
    trial = closed(TEKAP)
    first, second = (_everything(trial.recording()) for _ in range(2))
    assert first.keys() == second.keys()
    for name, one in first.items():
        assert all(map(torch.equal, _tensors(one), _tensors(second[name]))), name


def _tensors(node: Any) -> list[Tensor]:
    if isinstance(node, Tensor):
        return [node]
    if isinstance(node, float):
        return [torch.tensor(node, dtype=torch.float64)]
    items = node.values() if isinstance(node, dict) else node
    return [tensor for item in items for tensor in _tensors(item)]


def test_views_are_log_probabilities_of_the_trials_own_views() -> None:
    trial = closed(SHORT)
    views = trial.recording().views()
    split = trial.evaluation.judged
    teacher = trial.evaluation.teacher_signals(split)
    assert teacher is not None and len(views) == 3
    trial.views.eval()
    with torch.no_grad():
        expected_NVK = trial.views.views(teacher, torch.Generator()).logits_BVK.log_softmax(dim=-1)
    for index, view_NK in enumerate(views):
        torch.testing.assert_close(view_NK, expected_NVK[:, index])
        torch.testing.assert_close(view_NK.exp().sum(dim=1), torch.ones(len(split)))


def test_stochastic_views_are_averaged_as_probabilities() -> None:
    trial = closed(TEKAP)
    evaluation = trial.evaluation
    teacher = evaluation.teacher_signals(evaluation.judged)
    assert teacher is not None and evaluation.at_close is not None
    with torch.no_grad():
        drawn = list(fixed_views(trial.views, teacher, evaluation.at_close, trial.config.seeds.noise))
    assert len(drawn) == STOCHASTIC_DRAWS
    mean_NVK = torch.stack([views.logits_BVK.softmax(dim=-1) for views in drawn]).mean(dim=0)
    held = trial.recording().views()
    assert len(held) == mean_NVK.shape[1] == 2
    torch.testing.assert_close(torch.stack(held, dim=1).exp(), mean_NVK)
    features = trial.recording().features(4)
    assert {name: tuple(values.shape) for name, values in features.items()} == {
        "student": (4, 4), "view_1": (4, 8), "view_2": (4, 8), "view_3": (4, 8),
    }  # fmt: skip
    assert torch.equal(features["view_2"], drawn[0].pooled_BVC[:4, 1]), "those of the first draw"


def test_a_plain_teacher_has_no_views() -> None:
    recording = closed({"name": "none"}).recording()
    assert recording.views() == []
    assert list(recording.features(2)) == ["student"] and list(recording.attention(2)) == ["student"]


def test_class_maps_explain_the_scores_they_are_made_of() -> None:
    generator = torch.Generator().manual_seed(0)
    last_BCHW = torch.randn(6, 5, 3, 4, generator=generator)
    weight_KC, bias_K = torch.randn(7, 5, generator=generator), torch.randn(7, generator=generator)
    logits_BK = torch.nn.functional.linear(last_BCHW.mean(dim=(2, 3)), weight_KC, bias_K)
    maps = class_maps(last_BCHW, logits_BK, weight_KC, bias_K)
    every_BKHW = torch.einsum("kc,bchw->bkhw", weight_KC, last_BCHW) + bias_K[None, :, None, None]
    torch.testing.assert_close(maps.sum_NHW, every_BKHW.sum(dim=1))
    chosen_BHW = torch.stack([maps_KHW[k] for maps_KHW, k in zip(every_BKHW, logits_BK.argmax(dim=1), strict=True)])
    torch.testing.assert_close(maps.predicted_NHW, chosen_BHW)
    torch.testing.assert_close(maps.sum_NHW.mean(dim=(1, 2)), logits_BK.sum(dim=1))
    torch.testing.assert_close(maps.predicted_NHW.mean(dim=(1, 2)), logits_BK.max(dim=1).values)


def test_maps_of_affine_views_are_exact() -> None:
    """The mean of a view's map over its places is the score that the view gives the whole image."""
    trial = closed(SHORT)
    split = trial.evaluation.judged
    teacher = trial.evaluation.teacher_signals(split)
    assert teacher is not None
    trial.views.eval()
    with torch.no_grad():
        logits_NVK = trial.views.views(teacher, torch.Generator()).logits_BVK[:70]
    maps = trial.recording().attention(70)  # more than one batch of places
    assert list(maps) == ["student", "view_1", "view_2", "view_3"]
    for index in range(3):
        of_view, logits_NK = maps[f"view_{index + 1}"], logits_NVK[:, index]
        assert of_view.sum_NHW.shape[0] == 70 and of_view.sum_NHW.shape[1] > 1
        close = {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(of_view.sum_NHW.mean(dim=(1, 2)), logits_NK.sum(dim=1), **close)
        torch.testing.assert_close(of_view.predicted_NHW.mean(dim=(1, 2)), logits_NK.max(dim=1).values, **close)


def test_maps_of_student_and_teachers_are_those_of_their_answers() -> None:
    trial = closed({"name": "multi_teacher"}, OTHER)
    recording = trial.recording()
    student, teachers = recording.attention(9), recording.teacher_attention(9)
    assert list(student) == ["student"], "views that are teachers have theirs with the teachers"
    assert list(teachers) == ["teacher_0", "teacher_1"]
    assert trial.evaluation.at_close is not None
    logits = {"student": trial.evaluation.at_close.logits_BK, **_named(recording.teacher_logits())}
    for whose, maps in {**student, **teachers}.items():
        largest = logits[whose][:9].max(dim=1).values
        torch.testing.assert_close(maps.predicted_NHW.mean(dim=(1, 2)), largest, rtol=1e-4, atol=1e-4)


def _named(logits: list[Tensor]) -> dict[str, Tensor]:
    return {f"teacher_{index}": logits_NK for index, logits_NK in enumerate(logits)}


def test_a_student_that_predicts_through_a_head_has_no_map() -> None:
    trial = closed({"name": "none"}, method={"name": "simkd"})
    assert trial.recording().attention(3) == {}
    assert list(trial.recording().teacher_attention(3)) == ["teacher_0"]


def test_augmented_images_are_the_same_for_every_trial_and_the_teacher() -> None:
    first, second = (Trial(config({"name": "none"}, seeds=Seeds(init=seed, order=seed))) for seed in (0, 1))
    second.student.load_state_dict(first.student.state_dict())
    assert torch.equal(first.recording().augmented(), second.recording().augmented()), "whatever the seed of the order"
    plain = first.evaluation.student_signals(first.evaluation.judged).logits_BK
    assert not torch.allclose(first.recording().augmented(), plain), "they are augmented"
    (of_teacher,) = first.recording().teacher_augmented()
    (known,) = first.recording().teacher_logits()
    assert not torch.allclose(of_teacher, known) and of_teacher.shape == known.shape


def test_accuracy_on_plain_training_images_is_by_the_labels_that_were_trained_on() -> None:
    trial = closed({"name": "none"})
    train = trial.splits.train
    assert not torch.equal(train.labels_N, train.training_labels_N), "some labels are wrong"
    answers_N = trial.evaluation.student_signals(train).logits_BK.argmax(dim=1)
    expected = 100 * float((answers_N == train.training_labels_N).double().mean())
    assert trial.recording().plain_train_accuracy() == pytest.approx(expected, rel=1e-12)


def test_reports_are_recorded_on_the_test_set() -> None:
    for role, reads_test in (("search", False), ("ablation", True)):
        recording = Trial(config({"name": "none"}, role=role)).recording()
        assert recording.reads_test is reads_test
        assert recording.split is (recording._of.splits.test if reads_test else recording._of.splits.validation)


def test_cells_of_agreement_stand_in_every_row() -> None:
    names = ("right_agree", "right_differ", "wrong_agree", "wrong_differ")
    row = list(Trial(config({"name": "none"})).run())[-1].row
    cells = {name: row[name] for name in names}
    assert sum(value or 0.0 for value in cells.values()) == pytest.approx(100.0)
    assert (cells["right_agree"] or 0.0) + (cells["wrong_agree"] or 0.0) == pytest.approx(row["agreement"])
    assert (cells["right_agree"] or 0.0) + (cells["right_differ"] or 0.0) == pytest.approx(row["teacher_accuracy"])
    of = config({"name": "none"})
    seen = replace(of, teacher_file=replace(of.teacher_file, saw_validation=True))
    assert {list(Trial(seen).run())[-1].row[name] for name in names} == {None}


@pytest.mark.parametrize("name", [name for name in names("views") if lookup("views", name).affine])
def test_views_that_say_they_are_affine_are(name: str) -> None:
    """Halfway between two features lies what is halfway between their answers, whatever the teacher's logits are."""
    augmenter = small_world.views(name).eval()
    generator = torch.Generator().manual_seed(0)
    first_BC, second_BC = (torch.randn(5, small_world.TEACHER_DIM, generator=generator) for _ in range(2))

    def said(pooled_BC: Tensor) -> Tensor:
        logits_BK = torch.randn(5, small_world.CLASSES, generator=generator)
        with torch.no_grad():
            return augmenter.views(Signals(logits_BK, pooled_BC), torch.Generator()).logits_BVK

    halfway = said((first_BC + second_BC) / 2)
    torch.testing.assert_close(halfway, (said(first_BC) + said(second_BC)) / 2, rtol=1e-4, atol=1e-5)
