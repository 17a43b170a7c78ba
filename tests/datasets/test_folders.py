"""Tiny ImageNet, ImageNet and other folders of image files: layouts, resizing, and what is missing or wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from akdtune.data.dataset import DataSet, load_data, missing_files
from akdtune.data.decoding import Square, pixels, squared
from akdtune.data.splits import Split
from akdtune.errors import DataError
from akdtune.settings.data import Augmentation, DataSettings
from akdtune.signals import InputSpec
from tests.spoiled import spoil

CPU = torch.device("cpu")
WNIDS = ["n01443537", "n01629819", "n02124075"]


def save(path: Path, colour: tuple[int, int, int] = (9, 8, 7), size: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, "PNG")  # exact, and Pillow looks at the content, not at the name


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Tiny ImageNet as unpacked, with four images of each of three classes."""
    for label, wnid in enumerate(WNIDS):
        for index in range(4):
            save(tmp_path / "train" / wnid / "images" / f"{wnid}_{index}.JPEG", (10 * label, index, 0))
        (tmp_path / "train" / wnid / f"{wnid}_boxes.txt").write_text("no image\n")
    order = [2, 0, 1]
    for index, label in enumerate(order):
        save(tmp_path / "val" / "images" / f"val_{index}.JPEG", (10 * label, 99, 0))
    lines = [f"val_{index}.JPEG\t{WNIDS[label]}\t0\t32\t44\t62\n" for index, label in enumerate(order)]
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    (tmp_path / "test" / "images").mkdir(parents=True)
    return tmp_path


def load(name: str, root: Path, **more: Any) -> DataSet:
    return load_data(DataSettings(**{"name": name, "root": str(root), "validation": 3} | more), CPU)


def reds(split: Split, dataset: DataSet) -> list[int]:
    """The red value of each image's middle pixel."""
    images = split.images(torch.arange(len(split)))[:, 0, 5, 5]
    return ((images * dataset.std_C[0] + dataset.mean_C[0]) * 255).round().int().tolist()


def test_tiny_imagenet_as_unpacked(tiny: Path) -> None:
    dataset = load("tiny_imagenet", tiny)
    assert dataset.inputs == InputSpec(3, 64, 3)
    assert dataset.augmentation == Augmentation(pad=8, flip=True)
    assert dataset.mean_C.tolist() == pytest.approx([0.4802, 0.4481, 0.3975])
    assert dataset.std_C.tolist() == pytest.approx([0.2302, 0.2265, 0.2262])
    splits = dataset.split("full")
    assert splits.train.labels_N.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert reds(splits.train, dataset) == [0] * 4 + [10] * 4 + [20] * 4
    assert splits.test.labels_N.tolist() == [2, 0, 1]
    assert reds(splits.test, dataset) == [20, 0, 10]
    assert not dataset.streams
    assert missing_files(dataset.settings) == []


def test_tiny_imagenet_with_sorted_validation_folders_is_the_same_set(tiny: Path, tmp_path: Path) -> None:
    first = load("tiny_imagenet", tiny)
    for index, label in enumerate([2, 0, 1]):
        folder = tiny / "val" / WNIDS[label]
        folder.mkdir()
        (tiny / "val" / "images" / f"val_{index}.JPEG").rename(folder / f"val_{index}.JPEG")
    (tiny / "val" / "images").rmdir()
    (tiny / "val" / "val_annotations.txt").unlink()
    second = load("tiny_imagenet", tiny).split("full").test
    assert second.labels_N.tolist() == [0, 1, 2]
    assert reds(second, first) == [0, 10, 20]


def test_a_second_start_reads_no_image(tiny: Path) -> None:
    first = load("tiny_imagenet", tiny)
    spoil(tiny, "*.JPEG")
    assert load("tiny_imagenet", tiny).content_hash == first.content_hash


def test_what_is_wrong_with_tiny_imagenet_is_named(tiny: Path) -> None:
    table = tiny / "val" / "val_annotations.txt"
    good = table.read_text()
    table.write_text(good.replace(WNIDS[0], "n9"))
    with pytest.raises(DataError, match=r"val_annotations.txt:2: class 'n9' is not among the training folders"):
        load("tiny_imagenet", tiny)
    table.write_text(good + "val_7.JPEG\tn01443537\t0\n")
    with pytest.raises(DataError, match=r"val_7.JPEG: no such file, but .*val_annotations.txt:4 names it"):
        load("tiny_imagenet", tiny)
    table.unlink()
    with pytest.raises(DataError, match=r"val_annotations.txt: no such file; it names the class of each file"):
        load("tiny_imagenet", tiny)


def test_a_corrupt_file_is_named_and_leaves_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    bad = tiny / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_2.JPEG"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(DataError) as caught:
        load("tiny_imagenet", tiny)
    assert str(caught.value).startswith(f"{bad}: not a readable image (")
    left = [path.name for path in (tmp_path / "cache" / "data").iterdir()]
    assert sorted(left) == ["index", "store.lock"]


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for role, count in (("train", 4), ("val", 2)):
        for wnid in WNIDS:
            for index in range(count):
                path = tmp_path / role / wnid / f"{wnid}_{index}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = generator.integers(0, 256, (50, 40 + 10 * index, 3), dtype=np.uint8)
                Image.fromarray(image).save(path, "PNG")
    return tmp_path


def test_imagenet_streams_and_is_judged_on_the_middle(imagenet: Path) -> None:
    dataset = load("imagenet", imagenet, stream="always")
    assert dataset.inputs == InputSpec(3, 224, 3)
    assert dataset.augmentation.facts() == {
        "pad": 0,
        "flip": True,
        "random_resized_crop": {"scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]},
    }
    assert dataset.mean_C.tolist() == pytest.approx([0.485, 0.456, 0.406])
    test = dataset.split("full").test
    image = Image.open(imagenet / "val" / WNIDS[1] / f"{WNIDS[1]}_0.JPEG")  # 40 wide, 50 high
    resized = np.asarray(image.resize((256, 320), Image.Resampling.BILINEAR))[48:272, 16:240]
    expected = (torch.from_numpy(resized.copy()).permute(2, 0, 1) / 255 - dataset.mean_C[:, None, None]) / (
        dataset.std_C[:, None, None]
    )
    assert test.labels_N.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.allclose(test.images(torch.tensor([2]))[0], expected, atol=1e-6)
    batch = next(dataset.split("full").train.epoch(0, 1, 3))
    assert batch.inputs is not None and batch.inputs.shape == (3, 3, 224, 224)


def test_the_real_imagenet_streams_by_default() -> None:
    from akdtune.data.streaming import too_large

    default = DataSettings(name="imagenet", validation=0)
    assert (default.stream, default.memory_mib, default.workers) == ("auto", 8192, None)
    assert too_large(default.stream, default.memory_mib, (1_281_167 + 50_000) * 3 * 224**2)
    assert not too_large(default.stream, default.memory_mib, 110_000 * 3 * 64**2)  # Tiny ImageNet


def test_other_crops_replace_the_random_resized_one(imagenet: Path) -> None:
    dataset = load("imagenet", imagenet, size=32, augmentation={"pad": 4})
    assert dataset.augmentation == Augmentation(pad=4, flip=True)
    assert not dataset.streams
    assert dataset.split("full").train.crops_only


@pytest.mark.parametrize(("role", "remove"), [("train", "train"), ("val", "val")])
def test_missing_folders_are_named(imagenet: Path, role: str, remove: str) -> None:
    (imagenet / remove).rename(imagenet / "elsewhere")
    asked = DataSettings(name="imagenet", root=str(imagenet), validation=3)
    assert missing_files(asked) == [str(imagenet / role)]
    with pytest.raises(DataError, match=rf"{imagenet / role}: no such folder; data.root \(now"):
        load_data(asked, CPU)


def test_bad_class_folders_are_named(imagenet: Path) -> None:
    (imagenet / "val" / WNIDS[0]).rename(imagenet / "val" / "n01443538")
    with pytest.raises(DataError, match=r"val/n01443538: unknown class 'n01443538'; did you mean 'n01443537'\?"):
        load("imagenet", imagenet)
    for file in (imagenet / "train" / WNIDS[2]).iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"train/n02124075: no image files in it"):
        load("imagenet", imagenet)
    for wnid in [*WNIDS[1:], "n01443538"]:
        for file in (imagenet / "val" / wnid).iterdir():
            file.rename(imagenet / "val" / file.name)
        (imagenet / "val" / wnid).rmdir()
    save(imagenet / "train" / WNIDS[2] / "1.JPEG")
    with pytest.raises(DataError, match=r"val: no class folders in it; expected one folder of images for each class"):
        load("imagenet", imagenet)


@pytest.mark.parametrize("role", ["val", "test"])
def test_image_folder_takes_test_or_val(tmp_path: Path, role: str) -> None:
    for label, name in enumerate(("cat", "dog")):
        for index in range(3):
            save(tmp_path / "train" / name / f"{index}.png", (100 * label, 0, 0), size=(20, 12 + index))
        save(tmp_path / role / name / "0.jpg", (100 * label, 1, 0), size=(30, 20))
    Image.new("L", (12, 12), 100).save(tmp_path / role / "dog" / "grey.png")
    dataset = load("image_folder", tmp_path, size=8, validation=2)
    assert dataset.inputs == InputSpec(3, 8, 2)
    assert dataset.split("full").test.labels_N.tolist() == [0, 1, 1]
    assert reds(dataset.split("full").test, dataset) == [0, 100, 100]
    assert dataset.mean_C[0].item() == pytest.approx(50 / 255, abs=1e-6)
    assert dataset.augmentation == Augmentation(pad=1, flip=True)


def test_image_folder_needs_root_and_size() -> None:
    with pytest.raises(ValidationError, match="the data set 'image_folder' needs root and size"):
        DataSettings(name="image_folder", validation=2)
    with pytest.raises(ValidationError, match="'stream' does not belong to the data set 'cifar10'"):
        DataSettings(name="cifar10", validation=2, stream="always")


@pytest.mark.parametrize(("size", "expected"), [((30, 20), (24, 16)), ((20, 30), (16, 24)), ((9, 9), (16, 16))])
def test_squared_keeps_the_middle_of_the_shorter_side(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    whole = pixels(image.resize(expected, Image.Resampling.BILINEAR))
    top, left = (whole.shape[1] - 12) // 2, (whole.shape[2] - 12) // 2
    got = pixels(squared(image, Square(12, 16)))
    assert np.array_equal(got, whole[:, top : top + 12, left : left + 12])
