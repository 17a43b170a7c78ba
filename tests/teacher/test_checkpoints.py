"""Imported teachers: published layouts that load, and files that do not fit, each with its message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision  # noqa: F401  slow to load: not within the first test that needs it

from akdtune import networks
from akdtune.data.dataset import DataSet, load_data
from akdtune.errors import CheckpointError
from akdtune.settings.data import DataSettings
from akdtune.settings.teacher import TeacherSettings
from akdtune.signals import InputSpec
from akdtune.teacher import find
from akdtune.teacher.checkpoints import load_checkpoint, load_plain, weights_hash
from akdtune.teacher.file import TeacherFile
from akdtune.teacher.find import evaluate, find_teacher, load_teacher
from akdtune.training.teachers import train_teachers

CPU = torch.device("cpu")
CIFAR100 = InputSpec(3, 32, 100)
DIGITS = InputSpec(1, 8, 10)
Weights = dict[str, Any]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def weights() -> Weights:
    return dict(networks.build("resnet8", CIFAR100, 3).state_dict())


def layouts(weights: Weights) -> dict[str, Any]:
    prefixed = {f"module.{key}": value for key, value in weights.items()}
    old = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    return {
        "plain": weights,
        "repdistiller": {"epoch": 240, "model": weights, "accuracy": torch.tensor(72.5), "optimizer": {"state": {}}},
        "mdistiller": {"model": prefixed, "epoch": 240, "best_acc": 72.5, "optimizer": {}},
        "state_dict": {"state_dict": prefixed},
        "without_counters": {"model": old},
    }


@pytest.mark.parametrize("layout", sorted(layouts({})))
def test_published_layouts_load(layout: str, weights: Weights, tmp_path: Path) -> None:
    torch.save(layouts(weights)[layout], tmp_path / "ckpt_epoch_240.pth")
    network = load_checkpoint(tmp_path / "ckpt_epoch_240.pth", "resnet8", CIFAR100, CPU)
    assert not network.training
    for key, value in network.state_dict().items():
        assert torch.equal(value, weights[key])
    assert weights_hash(network) == weights_hash(networks.build("resnet8", CIFAR100, 3))


FAMILIES = ["wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet18", "torchvision_mobilenet_v3_small"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("layout", ["repdistiller", "mdistiller"])
def test_published_layouts_load_for_every_family(name: str, layout: str, tmp_path: Path) -> None:
    saved = networks.build(name, CIFAR100, 3)
    torch.save(layouts(dict(saved.state_dict()))[layout], tmp_path / "student_best")
    loaded = load_checkpoint(tmp_path / "student_best", name, CIFAR100, CPU)
    assert weights_hash(loaded) == weights_hash(saved)


def failure(path: Path, network: Any = "resnet8") -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, network, CIFAR100, CPU)
    return str(caught.value).replace(str(path.parent) + "/", "")


def test_checkpoint_of_another_architecture_lists_what_differs(weights: Weights, tmp_path: Path) -> None:
    file = tmp_path / "t.pth"
    torch.save({"model": weights}, file)
    assert failure(file, "resnet14") == (
        "t.pth: not a checkpoint of resnet14 for 100 classes; missing keys: layer1.1.conv1.weight, "
        "layer1.1.bn1.weight, layer1.1.bn1.bias, layer1.1.bn1.running_mean and 26 more"
    )
    torch.save({"model": dict(networks.build("resnet14", CIFAR100, 0).state_dict())}, file)
    assert failure(file) == (
        "t.pth: not a checkpoint of resnet8 for 100 classes; unexpected keys: layer1.1.conv1.weight, "
        "layer1.1.bn1.weight, layer1.1.bn1.bias, layer1.1.bn1.running_mean and 32 more"
    )
    torch.save({"model": dict(networks.build("resnet8", InputSpec(3, 32, 10), 0).state_dict())}, file)
    assert failure(file) == (
        "t.pth: not a checkpoint of resnet8 for 100 classes; different shapes: fc.bias [10] instead of [100], "
        "fc.weight [10, 64] instead of [100, 64]"
    )


class Executed:
    """Pickles to a call: a file that tries to run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def test_files_that_are_no_checkpoints(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "t.pth"
    assert failure(file) == "t.pth: no such file"
    torch.save({"model": weights}, file)
    file.write_bytes(file.read_bytes()[:20_000])
    assert failure(file).startswith("t.pth: not a readable checkpoint of weights only (")
    file.write_bytes(b"")
    assert failure(file) == "t.pth: not a readable checkpoint of weights only (the file is empty)"
    file.write_text("text")
    assert failure(file).startswith("t.pth: not a readable checkpoint of weights only (")
    assert failure(tmp_path) == f"{tmp_path.name}: is a folder, not a file (it holds t.pth)"
    torch.save({"model": weights, "extra": Executed()}, file)
    assert "besides weights; only weights are read" in failure(file)
    assert not Path("executed").exists()
    torch.save({"epoch": 3, "model": {}}, file)
    assert failure(file) == "t.pth: no weights in it, it holds 'epoch', 'model'"
    torch.save([1, 2], file)
    assert failure(file) == "t.pth: holds list, not weights by name"


def digits() -> DataSet:
    return load_data(DataSettings(name="digits", validation=600), CPU)


def imported(tmp_path: Path, **more: Any) -> TeacherSettings:
    network = {"name": "cnn", "widths": [4]}
    torch.save({"model": networks.build(network, DIGITS, 1).state_dict()}, tmp_path / "own.pth")
    return TeacherSettings(network=network, checkpoint=str(tmp_path / "own.pth"), **more)


def test_imported_teacher_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, dataset = imported(tmp_path), digits()
    file = find_teacher(settings, dataset, "subset")
    assert file is not None
    assert file.saw_validation
    assert file.val_accuracy is None
    network = load_teacher(file, dataset.inputs, CPU)
    assert file.test_accuracy == evaluate(network, dataset.split("subset").test)
    monkeypatch.setattr(find, "evaluate", None)
    assert find_teacher(settings, dataset, "subset") == file
    rows = list(train_teachers(settings, dataset, "subset", CPU))
    assert len(rows) == 1
    assert TeacherFile(**rows[0]["teacher"]) == file


def test_clean_validation_is_a_declaration(tmp_path: Path) -> None:
    settings, dataset = imported(tmp_path, clean_validation=True), digits()
    file = find_teacher(settings, dataset, "subset")
    assert file is not None
    assert not file.saw_validation
    validation = dataset.split("subset").validation
    assert validation is not None
    assert file.val_accuracy == evaluate(load_teacher(file, dataset.inputs, CPU), validation)
    full = find_teacher(settings, dataset, "full")
    assert full is not None
    assert full.val_accuracy is None


def test_a_missing_imported_checkpoint_is_named(tmp_path: Path) -> None:
    settings = TeacherSettings(network="resnet8", checkpoint=str(tmp_path / "no.pth"))
    with pytest.raises(CheckpointError, match=r"no.pth: no such file$"):
        find_teacher(settings, digits(), "subset")


def test_our_own_files_can_be_imported_by_path() -> None:
    dataset = digits()
    auto = TeacherSettings(network={"name": "cnn", "widths": [4]}, epochs=1)
    path = list(train_teachers(auto, dataset, "subset", CPU))[-1]["teacher"]["path"]
    file = find_teacher(auto.model_copy(update={"checkpoint": path}), dataset, "subset")
    trained = find_teacher(auto, dataset, "subset")
    assert file is not None
    assert trained is not None
    assert file.weights_hash == trained.weights_hash
    assert set(load_plain(Path(path))["model"]) == set(load_teacher(trained, dataset.inputs, CPU).state_dict())


def test_weights_hash_sees_weights_and_statistics_but_not_counters() -> None:
    network = networks.build("resnet8", CIFAR100, 0)
    before = weights_hash(network)
    network.bn1.num_batches_tracked += 5
    assert weights_hash(network) == before
    network.bn1.running_mean[0] += 1
    assert weights_hash(network) != before
