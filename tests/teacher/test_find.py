"""Teachers: trained once, found again, stopped and resumed; and the table of a frozen teacher's signals."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from akdtune import networks
from akdtune.data import crops as data_crops
from akdtune.data.crops import Crops, epoch_order
from akdtune.data.dataset import DataSet, load_data
from akdtune.data.splits import Split
from akdtune.errors import AkdtuneError, CheckpointError
from akdtune.randomness import derived_seed
from akdtune.roles import TrainOn
from akdtune.settings.data import AugmentationSettings, DataSettings
from akdtune.settings.teacher import TeacherSettings
from akdtune.teacher.checkpoints import load_plain
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import evaluate, find_teacher, listed_teachers, load_teacher, teacher_key
from akdtune.teacher.frozen import FrozenTeacher
from akdtune.training.teacher_turn import TeacherTurn, WaitLimits
from akdtune.training.teachers import train_teachers

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"network": {"name": "cnn", "widths": [4, 8]}, "epochs": 3, "lr": 0.05}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def digits(**more: Any) -> DataSet:
    return load_data(DataSettings(**{"name": "digits", "validation": 600} | more), CPU)


def settings(**more: Any) -> TeacherSettings:
    return TeacherSettings(**SMALL | more)


def trained(of: TeacherSettings, dataset: DataSet, train_on: TrainOn = "subset") -> TeacherFile:
    return TeacherFile(**list(train_teachers(of, dataset, train_on, CPU))[-1]["teacher"])


def stop_after(steps: int) -> Callable[[], bool]:
    counter = itertools.count()
    return lambda: next(counter) >= steps


def test_training_yields_a_row_per_epoch_and_is_found_again() -> None:
    dataset = digits()
    assert find_teacher(settings(), dataset, "subset") is None
    rows = list(train_teachers(settings(), dataset, "subset", CPU))
    assert [row["epoch"] for row in rows[:-1]] == [1, 2, 3]
    assert json.loads(json.dumps(rows)) == rows
    measured = {"epoch", "epochs", "loss", "train_accuracy", "lr", "seconds"}
    assert measured | {"network", "number", "networks"} == set(rows[0])
    assert {(row["network"], row["number"], row["networks"]) for row in rows[:-1]} == {("cnn", 1, 1)}
    assert [row["lr"] for row in rows[:-1]] == [pytest.approx(settings().learning_rate(e)) for e in (1, 2, 3)]
    file = TeacherFile(**rows[-1]["teacher"])
    assert rows[-1]["done"] is True
    assert find_teacher(settings(), dataset, "subset") == file
    assert list(train_teachers(settings(), dataset, "subset", CPU)) == rows[-1:]
    assert [TeacherFile(**record["teacher"]) for record in listed_teachers()] == [file]
    assert sorted(path.name for path in Path(file.path).parent.iterdir()) == [
        "teacher.json",
        "teacher.pt",
        "train.lock",
    ]
    assert not file.saw_validation


def test_recorded_accuracies_are_those_of_the_loaded_network() -> None:
    dataset = digits()
    file = trained(settings(epochs=15, batch_size=16), dataset)
    network = load_teacher(file, dataset.inputs, CPU)
    splits = dataset.split("subset")
    assert splits.validation is not None
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert file.val_accuracy == evaluate(network, splits.validation)
    assert file.test_accuracy == evaluate(network, splits.test)
    assert file.val_accuracy is not None
    assert file.val_accuracy > 50
    right = network(splits.test.images(torch.arange(len(splits.test)))).logits_BK.argmax(dim=1) == splits.test.labels_N
    assert file.test_accuracy == pytest.approx(100 * float(right.double().mean()))


def test_loss_of_the_first_epoch_is_that_of_a_plain_loop() -> None:
    """The loop retyped: order, crops, steps and rates as the module says; the loss agrees to the last bit."""
    dataset, of = digits(), settings(batch_size=64)
    split = dataset.split("subset").train
    network = networks.build(of.network, dataset.inputs, derived_seed("teacher", 0, "init")).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    order_seed, total = derived_seed("teacher", 0, "order"), 0.0
    drawn = data_crops.crops(order_seed, 1, split.sample_ids_N, dataset.augmentation)
    order = epoch_order(order_seed, 1, split.sample_ids_N)
    for start in range(0, 300, 64):
        batch = order[start : start + 64]
        logits = network(split.images(batch, Crops(*(part[batch] for part in drawn)))).logits_BK
        loss = torch.nn.functional.cross_entropy(logits, split.labels_N[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(loss.detach().double()) * len(batch)
    row = next(train_teachers(of, dataset, "subset", CPU))
    assert row["loss"] == pytest.approx(total / 300, rel=1e-12)


def test_a_teacher_trains_by_the_optimiser_and_schedule_that_are_set() -> None:
    """AdamW along a cosine, retyped: what the first epoch leaves is what the second begins with."""
    dataset, of = digits(), settings(batch_size=64, epochs=2, lr=0.01, optimizer="adamw", schedule="cosine")
    split = dataset.split("subset").train
    network = networks.build(of.network, dataset.inputs, derived_seed("teacher", 0, "init")).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=5e-4)
    losses, rates = [], [0.01, 0.005]
    for epoch, rate in enumerate(rates, start=1):
        optimizer.param_groups[0]["lr"], total, count = rate, 0.0, 0
        for loaded in split.epoch(derived_seed("teacher", 0, "order"), epoch, 64):
            logits, labels = network(loaded.inputs).logits_BK, split.labels_N[loaded.positions_B]
            loss = torch.nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + float(loss.detach().double()) * len(labels), count + len(labels)
        losses.append(total / count)
    *rows, last = train_teachers(of, dataset, "subset", CPU)
    assert [row["lr"] for row in rows] == pytest.approx(rates)
    assert [row["loss"] for row in rows] == pytest.approx(losses, rel=1e-9)
    assert last["done"] and of.model_dump()["optimizer"] == "adamw"


def test_same_settings_give_the_same_bits_and_other_seeds_do_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hashes = []
    for number, more in enumerate(({}, {}, {"seed": 1})):
        monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / f"cache{number}"))
        torch.manual_seed(number)
        hashes.append(trained(settings(**more), digits()).weights_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_teacher_of_its_own_augmentation_is_that_of_data_that_have_it() -> None:
    plain, strong = digits(), digits(augmentation="strong")
    own, none = settings(augmentation="strong"), settings()
    assert teacher_key(own, plain, "subset") == teacher_key(none, strong, "subset")
    assert teacher_key(settings(augmentation="weak"), plain, "subset") == teacher_key(none, plain, "subset")
    assert teacher_key(settings(augmentation="weak"), strong, "subset") == teacher_key(none, plain, "subset")
    assert teacher_key(own, plain, "subset") != teacher_key(none, plain, "subset")
    under = plain.under(AugmentationSettings(cutout=2), "training.augmentation")
    assert teacher_key(none, under, "subset") == teacher_key(none, plain, "subset"), "whatever students see"
    file = trained(own, plain)
    assert find_teacher(none, strong, "subset") == file, "under the same name"
    assert find_teacher(none, plain, "subset") is None
    (record,) = listed_teachers()
    assert record["settings"]["augmentation"] == "strong"
    assert "augmentation" not in none.model_dump(mode="json")


@pytest.mark.parametrize("given", ["strong", {"cutout": 3}, {"pad": 0}])
def test_a_teacher_is_shown_what_is_set(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    build = networks.build

    def watched(*arguments: Any) -> networks.Network:
        network = build(*arguments)
        network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        return network

    monkeypatch.setattr(networks, "build", watched)
    dataset = digits()
    next(train_teachers(settings(augmentation=given, batch_size=64), dataset, "subset", CPU))
    under = dataset.under(AugmentationSettings.model_validate(given), "teacher.augmentation")
    expected = under.split("subset").train.epoch(derived_seed("teacher", 0, "order"), 1, 64)
    for images, batch in zip(seen, expected, strict=False):
        assert batch.inputs is not None and torch.equal(images, batch.inputs)
    assert len(seen) >= 5


def test_key_depends_on_what_the_weights_depend_on_and_on_nothing_else() -> None:
    base = teacher_key(settings(), digits(), "subset")
    same = [
        teacher_key(settings(), digits(label_noise={"fraction": 0.4}), "subset"),
        teacher_key(settings(clean_validation=True, milestones=[2, 3]), digits(), "subset"),
    ]
    assert settings().resolved_milestones() == [2, 3]
    assert set(same) == {base}
    other = [
        teacher_key(settings(), digits(), "full"),
        teacher_key(settings(), digits(split_seed=1), "subset"),
        teacher_key(settings(), digits(pixel_noise={"std": 0.1}), "subset"),
        teacher_key(settings(), digits(augmentation={"pad": 0, "flip": False}), "subset"),
        *(teacher_key(settings(**{key: value}), digits(), "subset") for key, value in CHANGES.items()),
    ]
    assert len({base, *other}) == len(other) + 1


CHANGES: dict[str, Any] = {
    "network": {"name": "cnn", "widths": [4, 9]},
    "epochs": 4,
    "lr": 0.06,
    "batch_size": 32,
    "seed": 1,
    "weight_decay": 0.0,
    "optimizer": "adamw",
    "schedule": "cosine",
}


def test_teachers_of_earlier_versions_stay_found() -> None:
    """Keys as version 0.1 made them; what settings have gained since enters a key only where it is used."""
    assert teacher_key(settings(), digits(), "subset") == "365403cb9a3373af"
    assert teacher_key(settings(), digits(), "full") == "a2323dc53baa2acd"
    first = "epochs batch_size lr milestones lr_decay momentum weight_decay network checkpoint seed clean_validation"
    assert set(settings().model_dump()) == set(settings().model_dump(mode="json")) == set(first.split())


def test_a_network_name_and_its_spelt_out_defaults_share_a_teacher() -> None:
    name, spelt = settings(network="cnn"), settings(network={"name": "cnn", "widths": [16, 32, 64]})
    assert teacher_key(name, digits(), "subset") == teacher_key(spelt, digits(), "subset")


def test_label_noise_does_not_reach_the_teacher() -> None:
    clean = next(train_teachers(settings(), digits(), "subset", CPU))
    noisy = list(train_teachers(settings(seed=0), digits(label_noise={"fraction": 1.0}), "subset", CPU))
    assert noisy[0]["loss"] == clean["loss"]


def test_full_training_has_no_validation_accuracy() -> None:
    file = trained(settings(epochs=1), digits(), "full")
    assert file.val_accuracy is None
    assert file.saw_validation


@pytest.mark.parametrize("steps", [0, 3, 5, 7, 14])
def test_a_stopped_training_goes_on_to_the_same_bits(
    steps: int, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = digits()
    rows = list(train_teachers(settings(), dataset, "subset", CPU, stop_after(steps)))  # 5 steps an epoch
    assert len(rows) == steps // 5
    assert not any(row.get("done") for row in rows)
    assert find_teacher(settings(), dataset, "subset") is None
    left = {path.name for path in (own_cache / "teachers").glob("*/*")}
    assert left == ({"train.lock", "progress.pt"} if steps >= 5 else {"train.lock"})
    rest = list(train_teachers(settings(), dataset, "subset", CPU))
    assert [row["epoch"] for row in rows + rest[:-1]] == [1, 2, 3]
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "other"))
    undisturbed = list(train_teachers(settings(), digits(), "subset", CPU))
    assert rest[-1]["teacher"]["weights_hash"] == undisturbed[-1]["teacher"]["weights_hash"]
    drop = [{k: v for k, v in row.items() if k not in ("seconds", "teacher")} for row in rows + rest]
    assert drop == [{k: v for k, v in row.items() if k not in ("seconds", "teacher")} for row in undisturbed]


def test_a_stopped_training_by_adamw_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = settings(optimizer="adamw", lr=0.005)
    assert not list(train_teachers(of, digits(), "subset", CPU, stop_after(12)))[-1].get("done")
    resumed = trained(of, digits())
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "other"))
    assert resumed.weights_hash == trained(of, digits()).weights_hash


def test_damaged_progress_starts_again(own_cache: Path) -> None:
    list(train_teachers(settings(), digits(), "subset", CPU, stop_after(5)))
    (progress,) = (own_cache / "teachers").glob("*/progress.pt")
    progress.write_bytes(progress.read_bytes()[:1000])
    assert [row.get("epoch") for row in train_teachers(settings(), digits(), "subset", CPU)] == [1, 2, 3, None]


def test_an_abandoned_iterator_frees_the_lock() -> None:
    rows = train_teachers(settings(), digits(), "subset", CPU)
    next(rows)
    rows.close()
    assert trained(settings(), digits()).val_accuracy is not None


def test_waiting_for_another_trainer_can_be_stopped(own_cache: Path) -> None:
    folder = own_cache / "teachers" / teacher_key(settings(), digits(), "subset")
    folder.mkdir(parents=True)
    with FileLock(str(folder / "train.lock")):
        assert list(train_teachers(settings(), digits(), "subset", CPU, lambda: True)) == []


def test_who_waits_for_another_trainer_says_for_whom_and_not_for_ever(own_cache: Path) -> None:
    limits = WaitLimits(poll_s=0.01, say_every_s=0.05, patience_s=0.2)
    folder = own_cache / "teachers" / "x"
    folder.mkdir(parents=True)
    first, second = TeacherTurn(folder, limits), TeacherTurn(folder, limits)
    with first.until_done():
        assert list(first.take(lambda: False)) == []
        waiting = second.take(lambda: False)
        since = json.loads((folder / "trainer.json").read_text())["since"]
        said = f"process {os.getpid()} on {socket.gethostname()}, since {since}"
        assert next(waiting) == {"waits": f"teacher: waits for {said}, which trains it in {folder}"}
        with pytest.raises(CheckpointError, match=rf"waited for {said}, which trains this teacher and gave no sign"):
            list(waiting)
    assert list(second.take(lambda: False)) == []
    second.release()
    assert [path.name for path in folder.iterdir()] == ["train.lock"]


def test_a_teachers_record_of_another_shape_is_named(own_cache: Path) -> None:
    file = Path(trained(settings(), digits()).path).with_name("teacher.json")
    record = json.loads(file.read_text())
    record["teacher"] |= {"of_a_later_version": 1}
    file.write_text(json.dumps(record))
    assert find_teacher(settings(), digits(), "subset") is not None
    del record["teacher"]["weights_hash"]
    file.write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"teacher\.json: damaged, weights_hash is missing; delete it to have"):
        find_teacher(settings(), digits(), "subset")


def test_a_flipped_bit_in_the_state_of_a_teachers_training_starts_it_again(own_cache: Path) -> None:
    whole = trained(settings(), digits())
    shutil.rmtree(Path(whole.path).parent)
    list(train_teachers(settings(), digits(), "subset", CPU, stop_after(7)))
    path = Path(whole.path).with_name("progress.pt")
    state = load_plain(path)
    next(iter(state["model"].values()))[0] += 1
    torch.save(state, path)
    assert trained(settings(), digits()).weights_hash == whole.weights_hash


def trainer(epochs: int, before: str = "pass") -> subprocess.Popen[str]:
    """Another process that trains the same teacher and prints each epoch's number."""
    program = (
        "import torch; from akdtune.data.dataset import load_data; from akdtune.settings.data import DataSettings;"
        "from akdtune.settings.teacher import TeacherSettings; from akdtune.training import teachers;"
        f"torch.set_num_threads(1); {before};"
        "d = load_data(DataSettings(name='digits', validation=600), torch.device('cpu'));"
        f"s = TeacherSettings(**{SMALL | {'epochs': epochs}!r});"
        "rows = teachers.train_teachers(s, d, 'subset', torch.device('cpu'));"
        "[print(row.get('epoch', -1), flush=True) for row in rows]"
    )
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def test_a_second_trainer_waits_and_finds_the_teacher() -> None:
    with trainer(epochs=30) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        rows = list(train_teachers(settings(epochs=30), digits(), "subset", CPU))
        assert [row for row in rows if "waits" not in row] == [rows[-1]]
        assert rows[-1]["done"]
        assert all("which trains it in" in row["waits"] for row in rows[:-1])
        assert process.stdout.read().split()[-2:] == ["30", "-1"]


def test_a_killed_trainer_leaves_nothing_half_written(own_cache: Path) -> None:
    with trainer(epochs=400, before="teachers.PROGRESS_EVERY_S = 0") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 5:
                os.kill(process.pid, signal.SIGKILL)
                break
    rows = train_teachers(settings(epochs=400), digits(), "subset", CPU)
    assert next(rows)["epoch"] >= 5
    rows.close()


def test_diverged_training_is_one_message(own_cache: Path) -> None:
    with pytest.raises(AkdtuneError, match=r"the teacher's loss is not finite in epoch \d; lower teacher.lr"):
        list(train_teachers(settings(lr=1e30), digits(), "subset", CPU))
    assert {path.name for path in (own_cache / "teachers").glob("*/*")} == {"train.lock"}


def test_a_full_disk_is_one_message_and_leaves_no_part(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    dataset = digits()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot write the teacher to .*No space left.*AKDTUNE_CACHE"):
        trained(settings(epochs=1), dataset)
    assert {path.name for path in (own_cache / "teachers").glob("*/*")} == {"train.lock"}
    monkeypatch.undo()


def test_changed_weights_are_noticed() -> None:
    dataset = digits()
    file = trained(settings(epochs=1), dataset)
    held = torch.load(file.path, weights_only=True)
    held["model"]["fc.bias"] += 1
    torch.save(held, file.path)
    with pytest.raises(CheckpointError, match=r"teacher.pt: damaged: its content does not have the digest"):
        load_teacher(file, dataset.inputs, CPU)


def table(epochs: int, limit_mib: float = 64, **more: Any) -> tuple[FrozenTeacher, Split, DataSet]:
    dataset = digits(**more)
    split = dataset.split("subset").train
    network = networks.build({"name": "cnn", "widths": [8, 16]}, dataset.inputs, 0)
    network.train()
    for start in range(0, 300, 100):  # running statistics of real images
        network(split.images(torch.arange(start, start + 100)))
    frozen = network.eval().requires_grad_(False)
    stored = FrozenTeacher(frozen, split, dataset.augmentation, epochs, table_limit_mib=limit_mib)
    return stored, split, dataset


def test_table_holds_what_the_network_says_about_every_crop() -> None:
    stored, split, dataset = table(epochs=40)
    assert stored.keeps_table
    live = FrozenTeacher(stored.network, split, dataset.augmentation, 9)
    assert not live.keeps_table
    for epoch in range(1, 4):
        drawn = data_crops.crops(0, epoch, split.sample_ids_N, dataset.augmentation)
        for batch in epoch_order(0, epoch, split.sample_ids_N).split(64):
            crops = Crops(*(part[batch] for part in drawn))
            images = split.images(batch, crops)
            from_table, other = stored.signals(batch, images, crops), live.signals(batch, images, crops)
            assert torch.allclose(from_table.logits_BK, other.logits_BK, atol=1e-5)
            assert torch.allclose(from_table.pooled_BC, other.pooled_BC, atol=1e-5)
            assert not from_table.logits_BK.requires_grad


def test_for_timing_one_batch_stands_for_the_table() -> None:
    asked = []
    (stored, split, dataset), (whole, *_) = table(epochs=40), table(epochs=40)
    stored.network.register_forward_hook(lambda *_: asked.append(1))
    stored.stand_in()
    drawn = data_crops.crops(0, 1, split.sample_ids_N, dataset.augmentation)
    some, all_of_it = (each.signals(torch.arange(300), torch.empty(0), drawn) for each in (stored, whole))
    assert len(asked) == 1, "300 images x 9 crops are eleven batches"
    assert some.logits_BK.shape == all_of_it.logits_BK.shape
    assert some.pooled_BC.shape == all_of_it.pooled_BC.shape
    other = FrozenTeacher(stored.network, split, dataset.augmentation, 9)
    other.stand_in()
    assert other._tables is None, "nothing is kept, nothing stands for it"


def test_table_does_not_depend_on_who_asks_first_or_in_what_batches() -> None:
    (stored, split, dataset), (other, *_) = table(epochs=40), table(epochs=40)
    drawn = data_crops.crops(0, 1, split.sample_ids_N, dataset.augmentation)
    whole = stored.signals(torch.arange(300), torch.empty(0), drawn)
    for batch in torch.arange(299, -1, -1).split(7):
        part = other.signals(batch, torch.empty(0), Crops(*(crop[batch] for crop in drawn)))
        assert torch.equal(part.logits_BK, whole.logits_BK[batch])
        assert torch.equal(part.pooled_BC, whole.pooled_BC[batch])


def test_table_is_kept_only_when_it_pays_and_fits() -> None:
    assert not table(epochs=9)[0].keeps_table  # as many crops as epochs
    assert not table(epochs=100, augmentation={"pad": 4, "flip": True})[0].keeps_table
    assert not table(epochs=40, limit_mib=0.1)[0].keeps_table


def test_stage_maps_come_live() -> None:
    stored, split, dataset = table(epochs=40)
    crops = data_crops.crops(0, 1, split.sample_ids_N, dataset.augmentation)
    images = split.images(torch.arange(300), crops)
    signals = stored.signals(torch.arange(300), images, crops, stages=True)
    assert signals.stages is not None
    assert [tuple(stage.shape[1:]) for stage in signals.stages] == list(stored.network.stage_shapes)


def test_classifier_comes_with_the_maps_only() -> None:
    stored, split, dataset = table(epochs=40)
    crops = data_crops.crops(0, 1, split.sample_ids_N, dataset.augmentation)
    images = split.images(torch.arange(300), crops)
    assert stored.signals(torch.arange(300), images, crops).classifier is None
    classifier = stored.signals(torch.arange(300), images, crops, stages=True).classifier
    assert classifier is not None
    for mine, own in zip(classifier, stored.network.classifier(), strict=True):
        assert torch.equal(mine, own)
        assert not mine.requires_grad


@pytest.mark.parametrize("epochs", [40, 9])
@pytest.mark.parametrize("stages", [False, True])
def test_strong_images_and_images_that_no_crop_identifies_come_live(epochs: int, stages: bool) -> None:
    stored, split, dataset = table(epochs=epochs)
    positions, generator = torch.arange(20), torch.Generator().manual_seed(0)
    crops = data_crops.crops(0, 1, split.sample_ids_N[positions], dataset.augmentation)
    images = split.images(positions, crops)
    strong = images + torch.randn(images.shape, generator=generator)
    signals = stored.signals(positions, images, crops, stages, strong)
    expected = stored.network(strong, stages)
    assert signals.strong is not None
    assert torch.equal(signals.strong.logits_BK, expected.logits_BK)
    assert (signals.strong.stages is not None) is (signals.strong.classifier is not None) is stages
    assert torch.allclose(signals.logits_BK, stored.network(images).logits_BK, atol=1e-5)
    changed = stored.signals(positions, strong, None, stages)
    assert changed.strong is None
    assert torch.equal(changed.logits_BK, expected.logits_BK)
    assert not changed.logits_BK.requires_grad


@pytest.mark.parametrize("epochs", [40, 9])
@pytest.mark.parametrize("stages", [False, True])
def test_further_teachers_speak_beside_the_main_one(epochs: int, stages: bool) -> None:
    alone, split, dataset = table(epochs=epochs)
    widths = ([4, 8], [16])
    others = [networks.build({"name": "cnn", "widths": w}, dataset.inputs, 1).eval() for w in widths]
    together = FrozenTeacher(alone.network, split, dataset.augmentation, epochs, others)
    assert together.others == tuple(others)
    assert together.keeps_table is alone.keeps_table is (epochs == 40)
    positions = torch.arange(50, 70)
    crops = data_crops.crops(0, 1, split.sample_ids_N[positions], dataset.augmentation)
    images = split.images(positions, crops)
    signals = together.signals(positions, images, crops, stages, images)
    main = alone.signals(positions, images, crops, stages)
    assert torch.equal(signals.logits_BK, main.logits_BK)
    assert torch.equal(signals.pooled_BC, main.pooled_BC)
    assert signals.strong is not None
    for said in (signals, signals.strong):
        assert len(said.others) == 2
        for other, network in zip(said.others, others, strict=True):
            expected = network(images)
            assert torch.allclose(other.logits_BK, expected.logits_BK, atol=1e-5)
            assert torch.allclose(other.pooled_BC, expected.pooled_BC, atol=1e-5)
            assert not other.logits_BK.requires_grad
            assert other.stages is None


def test_the_table_counts_every_teacher() -> None:
    alone, split, dataset = table(epochs=40)
    size_mib = len(split) * dataset.augmentation.variants * (16 + 10) * 4 / 2**20
    of_images, limit = (split, dataset.augmentation, 40), {"table_limit_mib": 1.5 * size_mib}
    assert FrozenTeacher(alone.network, *of_images, **limit).keeps_table
    assert not FrozenTeacher(alone.network, *of_images, [alone.network], **limit).keeps_table


def test_no_table_where_crops_do_not_identify_an_image() -> None:
    assert not table(epochs=40, augmentation={"cutout": 2})[0].keeps_table


def test_evaluate_leaves_the_mode_as_it_was() -> None:
    dataset = digits()
    network = networks.build(SMALL["network"], dataset.inputs, 0).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert 0 <= evaluate(network, dataset.split("full").test) <= 100
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_an_epoch_of_the_digits_study_is_quick() -> None:
    """A student epoch's data and teacher signals: a guard against per-image work, not a benchmark."""
    stored, split, dataset = table(epochs=40)

    def epoch(number: int) -> float:
        started = time.process_time()
        drawn = data_crops.crops(0, number, split.sample_ids_N, dataset.augmentation)
        for batch in epoch_order(0, number, split.sample_ids_N).split(32):
            crops = Crops(*(part[batch] for part in drawn))
            stored.signals(batch, split.images(batch, crops), crops)
        return time.process_time() - started

    assert min(epoch(number) for number in range(5)) < 0.03
