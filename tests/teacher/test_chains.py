"""Teachers without a network, several teachers, and teachers that are distilled from larger ones."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from akdtune import networks
from akdtune.data.crops import Crops, crops, epoch_order
from akdtune.data.dataset import DataSet, load_data
from akdtune.data.row_sets import Loaded
from akdtune.errors import CheckpointError
from akdtune.randomness import derived_seed
from akdtune.roles import TrainOn
from akdtune.settings.data import AugmentationSettings, DataSettings
from akdtune.settings.teacher import TeacherSettings
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import find_teacher, listed_teachers, load_others, load_teacher, teacher_key
from akdtune.training.teachers import distillation_loss, label_loss, train_teachers

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"network": {"name": "cnn", "widths": [4, 8]}, "epochs": 2, "lr": 0.05, "batch_size": 128}
MIDDLE = SMALL | {"network": {"name": "cnn", "widths": [5, 8]}}
LARGE = SMALL | {"network": {"name": "cnn", "widths": [6, 8]}}
DENSE = SMALL | {"distilled_from": [LARGE, MIDDLE | {"distilled_from": [LARGE]}]}
"""DGKD: from the largest, and from one that is itself distilled from the largest."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data(DataSettings(name="digits", validation=600), CPU)


def settings(**given: Any) -> TeacherSettings:
    return TeacherSettings(**given)


def rows_of(of: TeacherSettings, dataset: DataSet, train_on: TrainOn = "subset") -> list[Any]:
    return list(train_teachers(of, dataset, train_on, CPU))


def trained(of: TeacherSettings, dataset: DataSet, train_on: TrainOn = "subset") -> TeacherFile:
    return TeacherFile(**rows_of(of, dataset, train_on)[-1]["teacher"])


def stop_after(steps: int) -> Callable[[], bool]:
    counter = itertools.count()
    return lambda: next(counter) >= steps


@pytest.mark.parametrize("network", ["none", {"name": "none"}])
def test_no_teacher_is_found_and_done_at_once(network: Any, digits: DataSet, own_cache: Path) -> None:
    absent = settings(network=network)
    assert absent.absent
    file = find_teacher(absent, digits, "subset")
    assert file == TeacherFile.none() == TeacherFile.untrained(absent)
    assert file.absent
    assert (file.path, file.weights_hash, file.identity, file.saw_validation) == ("", "none", "none", False)
    assert rows_of(absent, digits) == [{"done": True, "teacher": file.plain()}]
    assert TeacherFile(**file.plain()) == file
    assert not own_cache.exists()
    assert not settings(**SMALL).absent


def test_others_are_trained_and_found_like_the_main_teacher(digits: DataSet) -> None:
    of = settings(**SMALL, others=[MIDDLE, SMALL | {"seed": 1}])
    assert find_teacher(of, digits, "subset") is None
    rows = rows_of(of, digits)
    assert [(row["number"], row["epoch"]) for row in rows[:-1]] == [(n, e) for n in (1, 2, 3) for e in (1, 2)]
    assert {row["networks"] for row in rows[:-1]} == {3}
    assert json.loads(json.dumps(rows)) == rows
    file = TeacherFile(**rows[-1]["teacher"])
    assert find_teacher(of, digits, "subset") == file
    assert [other.network for other in file.others] == [MIDDLE["network"], SMALL["network"]]
    for teacher, alone in zip((file, *file.others), (SMALL, MIDDLE, SMALL | {"seed": 1}), strict=True):
        again = find_teacher(settings(**alone), digits, "subset")
        assert again is not None
        for attribute in ("weights_hash", "path", "val_accuracy"):
            assert getattr(teacher, attribute) == getattr(again, attribute)
    loaded = load_others(file, digits.inputs, CPU)
    assert [network.stage_shapes[0][0] for network in loaded] == [5, 4]
    assert not any(parameter.requires_grad for network in loaded for parameter in network.parameters())


def test_every_teacher_has_its_own_augmentation(digits: DataSet) -> None:
    strong, cut = SMALL | {"augmentation": "strong"}, MIDDLE | {"augmentation": {"cutout": 2}}
    file = trained(settings(**strong, others=[cut, LARGE]), digits)
    for teacher, alone in zip((file, *file.others), (strong, cut, LARGE), strict=True):
        again = find_teacher(settings(**alone), digits, "subset")
        assert again is not None and again.weights_hash == teacher.weights_hash
    assert find_teacher(settings(**SMALL), digits, "subset") is None
    assert find_teacher(settings(**MIDDLE), digits, "subset") is None


def test_a_source_is_trained_on_its_own_augmentation(digits: DataSet) -> None:
    cut = load_data(DataSettings(name="digits", validation=600, augmentation=AugmentationSettings(cutout=2)), CPU)
    own = settings(**SMALL, augmentation={"cutout": 2}, distilled_from=[LARGE])
    same = settings(**SMALL, distilled_from=[LARGE | {"augmentation": "weak"}])
    assert teacher_key(own, digits, "subset") == teacher_key(same, cut, "subset")
    assert teacher_key(own, digits, "subset") != teacher_key(settings(**SMALL, distilled_from=[LARGE]), cut, "subset")
    file = trained(own, digits)
    assert find_teacher(settings(**LARGE), digits, "subset") is not None
    assert find_teacher(same, cut, "subset") == file


def test_files_go_through_json_with_their_others(digits: DataSet) -> None:
    file = trained(settings(**SMALL, others=[MIDDLE]), digits)
    plain = json.loads(json.dumps(file.plain()))
    assert TeacherFile(**plain) == TeacherFile.parse(plain) == file
    assert isinstance(file.others[0], TeacherFile)
    assert hash(TeacherFile.none()) == hash(TeacherFile.none())


def test_identity_is_the_main_ones_hash_until_there_are_others() -> None:
    def file(weights: str, *others: TeacherFile) -> TeacherFile:
        return TeacherFile("t.pt", "key", weights, "cnn", None, None, False, others)

    assert file("a").identity == "a"
    several = {file("a", file("b")).identity, file("b", file("a")).identity, file("a", file("b"), file("c")).identity}
    assert len(several) == 3
    assert file("a", file("b")).identity == file("a", file("b")).identity
    assert all(len(identity) == 16 for identity in several)


def test_only_what_is_missing_is_trained(digits: DataSet) -> None:
    rows_of(settings(**MIDDLE), digits)
    rows = rows_of(settings(**SMALL, others=[MIDDLE, LARGE]), digits)
    assert [row["number"] for row in rows[:-1]] == [1, 1, 2, 2]
    assert {row["networks"] for row in rows[:-1]} == {2}


def test_a_chain_trains_from_the_largest_to_the_smallest_each_once(digits: DataSet) -> None:
    of = settings(**DENSE)
    rows = rows_of(of, digits)
    assert [row["number"] for row in rows[:-1]] == [1, 1, 2, 2, 3, 3]
    records = listed_teachers()[::-1]
    assert [record["teacher"]["network"]["widths"][0] for record in records] == [6, 5, 4]
    file = TeacherFile(**rows[-1]["teacher"])
    assert file.others == ()
    assert find_teacher(of, digits, "subset") == file
    plain = trained(settings(**SMALL), digits)
    assert file.weights_hash != plain.weights_hash
    assert file.key != plain.key


def test_a_trained_chain_does_not_need_its_sources_any_more(digits: DataSet) -> None:
    of = settings(**SMALL, distilled_from=[LARGE])
    file = trained(of, digits)
    source = find_teacher(settings(**LARGE), digits, "subset")
    assert source is not None
    Path(source.path).unlink()
    assert find_teacher(settings(**LARGE), digits, "subset") is None
    assert find_teacher(of, digits, "subset") == file
    assert len(rows_of(of, digits)) == 1


def distilled_loss(
    student: torch.Tensor, labels: torch.Tensor, sources: list[torch.Tensor], weight: float, temperature: float
) -> torch.Tensor:
    """(1 - weight) CE + weight T^2 sum of KL, one image and one class at a time."""
    rows = []
    for b, label in enumerate(labels.tolist()):
        row = (1 - weight) * -torch.log_softmax(student[b], 0)[label]
        p = torch.softmax(student[b] / temperature, 0)
        for source in sources:
            q = torch.softmax(source[b] / temperature, 0)
            row = row + weight * temperature**2 * sum(q[c] * (q[c].log() - p[c].log()) for c in range(len(p)))
        rows.append(row)
    return torch.stack(rows).mean()


@pytest.mark.parametrize("drop", [0, 1])
def test_loss_of_the_first_epoch_is_that_of_a_plain_loop(drop: int, digits: DataSet) -> None:
    """The loop retyped: losses, order, crops and who is left out; live teachers, so equal but for rounding."""
    given = {"temperature": 3.0, "weight": 0.7, "drop": drop}
    of = settings(**SMALL, distilled_from=[LARGE, MIDDLE], distillation=given)
    row = next(row for row in train_teachers(of, digits, "subset", CPU) if row["number"] == 3)
    split = digits.split("subset").train
    files = [find_teacher(settings(**teacher), digits, "subset") for teacher in (LARGE, MIDDLE)]
    sources = [load_teacher(file, digits.inputs, CPU) for file in files if file is not None]
    network = networks.build(of.network, digits.inputs, derived_seed("teacher", 0, "init")).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    order_seed, total, left_out = derived_seed("teacher", 0, "order"), 0.0, set()
    draws = torch.Generator().manual_seed(derived_seed("teacher", 0, "drop", 1))
    drawn = crops(order_seed, 1, split.sample_ids_N, digits.augmentation)
    for batch in epoch_order(order_seed, 1, split.sample_ids_N).split(128):
        images = split.images(batch, Crops(*(part[batch] for part in drawn)))
        kept = torch.randperm(2, generator=draws).tolist()[drop:]
        left_out |= {0, 1} - set(kept)
        said = [sources[index](images).logits_BK for index in kept]
        loss = distilled_loss(network(images).logits_BK, split.labels_N[batch], said, 0.7, 3.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(loss.detach().double()) * len(batch)
    assert row["loss"] == pytest.approx(total / 300, rel=1e-4)
    assert bool(left_out) is (drop == 1)


def test_distillation_loss_is_finite_for_certain_teachers() -> None:
    certain_BK = torch.tensor([[80.0, -80.0], [-80.0, 80.0]])
    student_BK = (-certain_BK).requires_grad_()
    loss = distillation_loss(student_BK, [certain_BK, certain_BK], 1.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2 * 160)
    assert student_BK.grad is not None
    assert torch.isfinite(student_BK.grad).all()
    assert float(distillation_loss(certain_BK, [certain_BK], 4.0)) == 0.0


@pytest.mark.parametrize("steps", [0, 4, 7, 13])
def test_a_chain_that_was_stopped_goes_on_to_the_same_bits(
    steps: int, digits: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = settings(**DENSE)  # 3 networks of 2 epochs of 3 steps
    rows = list(train_teachers(of, digits, "subset", CPU, stop_after(steps)))
    assert len(rows) == steps // 3
    assert not any(row.get("done") for row in rows)
    assert find_teacher(of, digits, "subset") is None
    rest = rows_of(of, digits)
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "other"))
    undisturbed = rows_of(of, digits)
    assert [row["loss"] for row in (rows + rest)[:-1]] == [row["loss"] for row in undisturbed[:-1]]
    assert rest[-1]["teacher"]["weights_hash"] == undisturbed[-1]["teacher"]["weights_hash"]


CHANGES: list[dict[str, Any]] = [
    {"distilled_from": [LARGE]},
    {"distilled_from": [LARGE | {"seed": 1}]},
    {"distilled_from": [MIDDLE | {"distilled_from": [LARGE]}]},
    {"distilled_from": [LARGE, MIDDLE]},
    {"distilled_from": [MIDDLE, LARGE]},
    {"distilled_from": [LARGE, MIDDLE], "distillation": {"drop": 0}},
    {"distilled_from": [LARGE], "distillation": {"temperature": 4.0}},
    {"distilled_from": [LARGE], "distillation": {"weight": 0.5}},
]


def test_key_of_a_distilled_teacher_depends_on_its_sources_and_how(digits: DataSet) -> None:
    keys = [teacher_key(settings(**SMALL, **more), digits, "subset") for more in ({}, *CHANGES)]
    assert len(set(keys)) == len(keys)
    spelt = {"distilled_from": [LARGE, MIDDLE], "distillation": {"drop": 1, "temperature": 5.0, "weight": 1.0}}
    assert teacher_key(settings(**SMALL, **spelt), digits, "subset") == keys[4]
    with_others = settings(**SMALL, others=[LARGE])
    assert teacher_key(with_others, digits, "subset") == keys[0]


def imported(dataset: DataSet, path: Path, **more: Any) -> dict[str, Any]:
    network = networks.build(LARGE["network"], dataset.inputs, 3)
    torch.save({"model": network.state_dict()}, path)
    return {"network": LARGE["network"], "checkpoint": str(path), **more}


def test_an_imported_teacher_can_be_distilled_from_and_keyed_by_its_weights(digits: DataSet, tmp_path: Path) -> None:
    source = imported(digits, tmp_path / "one.pth")
    of = settings(**SMALL, distilled_from=[source])
    file = trained(of, digits)
    moved = Path(source["checkpoint"]).rename(tmp_path / "elsewhere.pth")
    again = settings(**SMALL, distilled_from=[source | {"checkpoint": str(moved)}])
    assert find_teacher(again, digits, "subset") == file
    with pytest.raises(CheckpointError, match="no such file"):
        find_teacher(of, digits, "subset")


def test_having_seen_validation_images_is_inherited(digits: DataSet, tmp_path: Path) -> None:
    saw = imported(digits, tmp_path / "one.pth")
    clean = saw | {"clean_validation": True}
    file = trained(settings(**SMALL, distilled_from=[saw]), digits)
    assert file.saw_validation
    assert file.val_accuracy is None
    declared = find_teacher(settings(**SMALL, distilled_from=[clean]), digits, "subset")
    assert declared is not None
    assert not declared.saw_validation
    assert declared.weights_hash == file.weights_hash
    assert declared.val_accuracy is not None
    beside = trained(settings(**SMALL, others=[saw]), digits)
    assert beside.saw_validation
    assert not trained(settings(**SMALL, others=[clean]), digits).saw_validation
    assert TeacherFile.untrained(settings(**SMALL, others=[saw])).saw_validation
    assert not TeacherFile.untrained(settings(**SMALL, others=[clean])).saw_validation
    assert trained(settings(**SMALL, distilled_from=[clean]), digits, "full").saw_validation


def test_an_untrained_stand_in_has_the_same_networks() -> None:
    file = TeacherFile.untrained(settings(**SMALL, others=[MIDDLE, LARGE]))
    networks_of = [teacher.network for teacher in (file, *file.others)]
    assert networks_of == [SMALL["network"], MIDDLE["network"], LARGE["network"]]
    assert {teacher.weights_hash for teacher in (file, *file.others)} == {"untrained"}


def test_settings_round_trip_and_hold_only_what_is_used() -> None:
    of = settings(**DENSE, others=[MIDDLE])
    for mode in ("json", "python"):
        assert TeacherSettings(**of.model_dump(mode=mode)) == of
    assert json.loads(json.dumps(of.model_dump(mode="json"))) == of.model_dump(mode="json")
    assert of.model_dump()["distillation"] == {"temperature": 5.0, "weight": 1.0, "drop": None}
    assert not {"distilled_from", "distillation", "others"} & settings(**SMALL).model_dump().keys()
    assert (settings(**DENSE).dropped, settings(**SMALL, distilled_from=[LARGE]).dropped) == (1, 0)


def test_every_teacher_in_the_settings_has_a_key_path() -> None:
    of = settings(**DENSE, others=[MIDDLE])
    assert [path for path, _ in of.with_paths()] == [
        (),
        ("distilled_from", 0),
        ("distilled_from", 1),
        ("distilled_from", 1, "distilled_from", 0),
        ("others", 0),
    ]
    assert all(isinstance(teacher, TeacherSettings) for _, teacher in of.with_paths())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"others": [SMALL | {"others": [LARGE]}]}, "others: only the study's main teacher has others"),
        ({"distilled_from": [SMALL | {"others": [LARGE]}]}, "distilled_from: only the study's main teacher"),
        ({"others": [{"network": "none"}]}, "others: network none is not a teacher"),
        ({"distilled_from": [{"network": "none"}]}, "distilled_from: network none is not a teacher"),
        ({"network": "none", "others": [LARGE]}, "network none goes without others"),
        ({"network": "none", "checkpoint": "t.pth"}, "network none goes without others, distilled_from and checkpoint"),
        ({"checkpoint": "t.pth", "distilled_from": [LARGE]}, "distilled_from needs checkpoint: auto"),
        ({"distillation": {"weight": 0.5}}, "distillation has no effect without distilled_from"),
        ({"distilled_from": [LARGE], "distillation": {"drop": 1}}, "distillation.drop 1 leaves none of 1 teachers"),
        ({"distilled_from": [LARGE], "distillation": {"weight": 1.5}}, "less than or equal to 1"),
        ({"distilled_from": [{"epochs": 3}]}, "distilled_from.0.network"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**SMALL | given)


def test_the_schema_of_nested_settings_is_finite() -> None:
    schema = TeacherSettings.model_json_schema()
    assert json.dumps(schema).count("Teacher") < 10
    text = json.dumps(schema["properties"] if "properties" in schema else schema["$defs"]["TeacherSettings"])
    named = set(re.findall(r'"\$ref": "#/\$defs/(\w+)"', text))
    assert named == {"DistillationSettings", "CheckpointFile", "AugmentationSettings"}, "none holds a teacher"


@pytest.mark.parametrize("augmentation", [{"cutout": 2}, {"mixup": 0.4}])
def test_a_chain_trains_on_images_that_no_crop_identifies(augmentation: dict[str, Any]) -> None:
    dataset = load_data(DataSettings(name="digits", validation=600, augmentation=augmentation), CPU)
    first, second = (trained(settings(**SMALL, distilled_from=[LARGE]), dataset).weights_hash for _ in range(2))
    assert first == second
    plain = load_data(DataSettings(name="digits", validation=600), CPU)
    of = settings(**SMALL, distilled_from=[LARGE])
    assert teacher_key(of, dataset, "subset") != teacher_key(of, plain, "subset")


def test_labels_of_mixed_images_count_by_their_share() -> None:
    logits_BK = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    labels_B, partner_B = torch.tensor([0, 1]), torch.tensor([1, 0])
    log_p_BK = torch.log_softmax(logits_BK, dim=-1)
    own, other = -(log_p_BK[0, 0] + log_p_BK[1, 1]) / 2, -(log_p_BK[0, 1] + log_p_BK[1, 0]) / 2
    mixed = Loaded(labels_B, None, logits_BK, None, partner_B, 0.7)
    torch.testing.assert_close(label_loss(logits_BK, labels_B, mixed), 0.7 * own + 0.3 * other)
    plain = Loaded(labels_B, None, logits_BK, None, None, 1.0)
    torch.testing.assert_close(label_loss(logits_BK, labels_B, plain), own)
