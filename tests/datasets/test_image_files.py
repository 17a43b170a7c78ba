"""Image files as they really lie: subfolders, odd names, links, shared files, missing folders, one folder to split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from akdtune.data.dataset import DataSet, load_data, missing_files
from akdtune.errors import DataError
from akdtune.settings.data import DataSettings

CPU = torch.device("cpu")


def save(path: Path, red: int = 9, of_format: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (red, 0, 0)).save(path, of_format)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of four training and two test images each."""
    for role, count, first in (("train", 4, 0), ("test", 2, 100)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                save(tmp_path / "set" / role / name / f"{index}.png", first + 50 * label + index)
    return tmp_path / "set"


def load(root: Path, **more: Any) -> DataSet:
    return load_data(
        DataSettings(**{"name": "image_folder", "root": str(root), "size": 8, "validation": 2} | more), CPU
    )


def reds(dataset: DataSet, role: str = "train") -> list[int]:
    """The red value of every image, in order."""
    images, split = getattr(dataset, f"{role}_pixels").images, getattr(dataset.split("full"), role)
    red: list[int] = images.plain(torch.arange(len(split)))[:, 0, 0, 0].int().tolist()
    return red


def test_a_flat_folder_is_as_before(root: Path) -> None:
    """Content hashes as recorded before folders were walked; of files whose bytes are ours."""
    for file in root.glob("*/*/*.png"):
        red = Image.open(file).getpixel((0, 0))[0]  # type: ignore[index]
        file.with_suffix(".ppm").write_bytes(b"P6 8 8 255\n" + bytes([red, 0, 0]) * 64)
        file.unlink()
    dataset = load(root)
    assert reds(dataset) == [0, 1, 2, 3, 50, 51, 52, 53]
    assert dataset.content_hash == "d5b1a681086d6d80e375f8f5167b545f"
    assert load(root, stream="always").content_hash == "1ec1c27d468137670077f1b0ce71967e"
    assert dataset.classes == ("cat", "dog")
    assert dataset.notes == ()


@pytest.mark.parametrize("stream", ["never", "always"])
def test_subfolders_are_walked_as_torchvision_walks(root: Path, stream: str) -> None:
    folder = root / "train" / "cat"
    for red, name in enumerate(("more/deep/a.png", "more-b/1.png", "more/2.png", "Z.png", "a.png"), start=200):
        save(folder / name, red)
    (folder / "linked").symlink_to(save(root / "elsewhere" / "x.png", 205).parent)
    expected = pytest.importorskip("torchvision.datasets").ImageFolder(root / "train")
    dataset = load(root, stream=stream)
    assert reds(dataset) == [Image.open(path).convert("RGB").getpixel((0, 0))[0] for path, _ in expected.samples]
    assert dataset.split("full").train.labels_N.tolist() == [label for _, label in expected.samples]
    assert len(dataset.split("full").train) == 8 + 6


def test_every_suffix_that_pillow_reads_is_taken(root: Path) -> None:
    formats = {"jfif": "JPEG", "jpe": "JPEG", "JPG": "JPEG", "Jpeg": "JPEG", "avif": "AVIF", "jp2": "JPEG2000",
               "webp": "WEBP", "tga": "TGA", "PPM": "PPM"}  # fmt: skip
    written = 0
    for suffix, of_format in formats.items():
        try:
            save(root / "train" / "cat" / f"x.{suffix}", of_format=of_format)
            written += 1
        except (KeyError, OSError):  # a Pillow without it
            (root / "train" / "cat" / f"x.{suffix}").unlink(missing_ok=True)
    dataset = load(root)
    assert len(reds(dataset)) == 8 + written
    assert written >= 7
    assert dataset.notes == ()


def test_what_is_left_out_is_counted_with_an_example(root: Path) -> None:
    cat = root / "train" / "cat"
    for name in ("a.txt", "b.txt", "c.heic", "README"):
        (cat / name).write_text("no image")
    save(root / "train" / "loose.png")
    save(cat / ".hidden.png")
    save(cat / ".ipynb_checkpoints" / "0-checkpoint.png")
    (root / "test" / "Thumbs.db").write_text("beside the classes, and no image")
    assert load(root).notes == (
        f"left out: 1 entry outside of every class folder (e.g. {root}/train/loose.png)",
        f"left out: 2 entries whose name begins with a dot (e.g. {cat}/.hidden.png)",
        f"left out: 1 entry without a suffix (e.g. {cat}/README)",
        f"left out: 2 entries ending in .txt (e.g. {cat}/a.txt)",
        f"left out: 1 entry ending in .heic (e.g. {cat}/c.heic)",
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda cat: (cat / "x.png").symlink_to("/nowhere/x.png"), "x.png: link to /nowhere/x.png, which is not there"),
        (lambda cat: (cat / "x.png").symlink_to("x.png"), "x.png: link that leads back to itself; remove it"),
        (lambda cat: (cat / "again").symlink_to("."), "again: link that leads back to a folder it lies in; remove it"),
        (lambda cat: (cat.parent / "eel").symlink_to("../gone"), "eel: link to ../gone, which is not there"),
        (lambda cat: os.mkfifo(cat / "x.png"), "x.png: named like an image, but it is no file; remove it"),
        (lambda cat: (cat / "x.png").touch(), "x.png: not a readable image (it is empty)"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_sentence(root: Path, make: Any, message: str) -> None:
    make(root / "train" / "cat")
    with pytest.raises(DataError) as caught:
        load(root)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_must_not_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refused(self: Path, *arguments: Any, **more: Any) -> Any:
        if self.match("dog/1.png"):
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(DataError, match=r"train/dog/1.png: cannot be read \(Permission denied\)"):
        load(root)


def test_names_of_any_bytes_are_said_in_one_line(root: Path) -> None:
    for role in ("train", "test"):
        (root / role / "dog").rename(root / role / os.fsdecode(b"d\xffg\n"))
    (root / "train" / "cat" / os.fsdecode(b"\xfe\n.t\xfft")).touch()
    dataset = load(root)
    assert dataset.classes == ("cat", r"d\udcffg\n")
    assert dataset.notes[0].endswith(r"ending in .t\udcfft (e.g. " + str(root) + r"/train/cat/\udcfe\n.t\udcfft)")
    "\n".join([*dataset.notes, dataset.classes_in_words or ""]).encode()


@pytest.mark.parametrize("stream", ["never", "always"])
def test_no_file_is_in_both_sets(root: Path, stream: str) -> None:
    image = root / "test" / "cat" / "0.png"
    image.unlink()
    for link in (image.symlink_to, image.hardlink_to):
        link(root / "train" / "dog" / "1.png")
        with pytest.raises(DataError, match=r"train/dog/1.png and .*test/cat/0.png are one file: it is in the tr"):
            load(root, stream=stream)
        image.unlink()


def test_no_folder_is_both_sets(root: Path) -> None:
    (root / "test").rename(root / "train" / "eel")
    for target in ("train", "train/eel", "."):
        (root / "test").symlink_to(target)
        with pytest.raises(DataError, match=r"set/test: is the training folder .*set/train itself, or one lies in the"):
            load(root)
        (root / "test").unlink()


@pytest.mark.parametrize("name", ["test", "eval", "val", "valid", "validation", "dev", "Valid"])
def test_the_test_folder_has_any_usual_name(root: Path, name: str) -> None:
    expected = load(root).content_hash
    (root / "test").rename(root / name)
    (root / "train").rename(root / "Train")
    assert missing_files(DataSettings(name="image_folder", root=str(root), size=8, validation=2)) == []
    assert load(root).content_hash == expected


def test_a_folder_beside_the_test_set_is_not_used_without_a_word(root: Path) -> None:
    (root / "val").mkdir()
    save(root / "val" / "cat" / "0.png")
    unused = f"not used: {root}/val, beside the test set {root}/test (validation images are taken from the training"
    assert load(root).notes[0].startswith(unused)
    for name in ("cat", "dog"):  # a test folder of unnamed images, as competitions have it
        for index in range(2):
            (root / "test" / name / f"{index}.png").rename(root / "test" / f"{name}{index}.png")
        (root / "test" / name).rmdir()
    dataset = load(root)
    assert len(dataset.split("full").test) == 1
    assert dataset.notes[-1].startswith(f"not used: {root}/test, beside the test set {root}/val")


def test_a_class_without_test_images_is_said(root: Path) -> None:
    for file in (root / "test" / "dog").iterdir():
        file.unlink()
    dataset = load(root)
    assert dataset.split("full").test.labels_N.tolist() == [0, 0]
    assert dataset.notes == (f"{root}/test: no test images of 1 of 2 classes (e.g. 'dog')",)
    for file in (root / "test" / "cat").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"set/test: no image files in its class folders"):
        load(root)
    for file in (root / "train" / "dog").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"train/dog: no image files in it"):
        load(root)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Class folders and nothing else."""
    for label, name in enumerate(("cat", "dog", "eel")):
        for index in range(10):
            save(tmp_path / "flat" / name / f"{index}.png", 50 * label + index)
    return tmp_path / "flat"


@pytest.mark.parametrize("stream", ["never", "always"])
def test_a_flat_folder_is_split_class_by_class(flat: Path, stream: str) -> None:
    dataset = load(flat, split=0.2, stream=stream)
    splits = dataset.split("full")
    assert torch.bincount(splits.test.labels_N).tolist() == [2, 2, 2]
    assert torch.bincount(splits.train.labels_N).tolist() == [8, 8, 8]
    test = reds(dataset, "test")
    assert sorted(reds(dataset) + test) == [50 * label + index for label in range(3) for index in range(10)]
    assert load(flat, split=0.2, stream=stream, split_seed=7).content_hash == dataset.content_hash
    save(flat / "cat" / "new.png", 49)
    assert set(test) - {49} <= set(reds(load(flat, split=0.3, stream=stream), "test"))
    assert load(flat, split=0.3, stream=stream).content_hash != dataset.content_hash


def test_a_training_folder_alone_is_split_too(root: Path) -> None:
    with pytest.raises(DataError, match=r"set/test: a test folder is there; leave out data.split \(now 0.25\)"):
        load(root, split=0.25)
    (root / "test").rename(root.parent / "away")
    dataset = load(root, split=0.25)
    assert (len(dataset.split("full").train), len(dataset.split("full").test)) == (6, 2)


def test_what_is_missing_says_what_would_do(flat: Path, root: Path) -> None:
    asked = DataSettings(name="image_folder", root=str(flat), size=8, validation=2)
    assert missing_files(asked)[0] == f"{flat}/train (or data.split=0.2, a fifth of each class in {flat} as test set)"
    with pytest.raises(DataError, match=r"flat/train: no such folder; data.root \(now .*data.split=0.2 takes a fifth"):
        load_data(asked, CPU)
    (root / "test").rename(root.parent / "away")
    asked = DataSettings(name="image_folder", root=str(root), size=8, validation=2)
    assert missing_files(asked) == [
        f"{root}/test (or data.split=0.2, a fifth of each class in {root}/train as test set)"
    ]


def test_a_class_of_one_image_cannot_be_split(flat: Path) -> None:
    save(flat / "fox" / "0.png")
    with pytest.raises(DataError, match=r"fox/0.png: the only image of class 'fox', which data.split divides"):
        load(flat, split=0.2)


def test_validation_may_be_a_share_of_the_pool(root: Path) -> None:
    assert len(load(root, validation=0.25).split("subset").validation or ()) == 2
    assert len(load(root, validation=0.5).split("subset").train) == 4
    for wrong in (1.5, -0.1):
        with pytest.raises(ValidationError):
            DataSettings(name="digits", validation=wrong)
    with pytest.raises(ValidationError, match="'split' does not belong to the data set 'digits'"):
        DataSettings(name="digits", validation=1, split=0.2)


def test_a_setting_that_is_not_used_changes_no_lock(root: Path) -> None:
    asked = DataSettings(name="image_folder", root=str(root), size=8, validation=2)
    assert "split" not in asked.model_dump()
    assert asked.model_copy(update={"split": 0.2}).model_dump()["split"] == 0.2


@pytest.mark.parametrize("stream", ["never", "always"])
def test_deep_pixels_of_a_folder_are_scaled_and_said(root: Path, stream: str) -> None:
    before = load(root, stream=stream).content_hash
    ramp = (np.arange(64).reshape(8, 8) * 1040).astype(np.uint16)
    for file in (root / "train" / "cat").iterdir():
        Image.fromarray(ramp).save(file, "PNG")
    dataset = load(root, stream=stream)
    images: Any = dataset.train_pixels.images
    expected = np.rint(ramp / 65535 * 255).astype(np.uint8)
    assert np.array_equal(images.plain(torch.tensor([0])).numpy()[0], np.stack([expected] * 3))
    assert dataset.notes == ("4 of 12 images have more than 8 bits a pixel and are scaled to 8 (e.g. train/cat/0.png)",)
    assert dataset.content_hash != before


@pytest.mark.parametrize("name", ["F", "I"])
@pytest.mark.parametrize("stream", ["never", "always"])
def test_pixels_without_full_scale_are_refused(root: Path, name: str, stream: str) -> None:
    array = np.ones((8, 8), dtype={"F": np.float32, "I": np.int32}[name])
    bad = root / "train" / "dog" / "3.png"
    Image.fromarray(array).save(bad, "TIFF")
    with pytest.raises(DataError, match=rf"train/dog/3.png: image of mode {name} \(.*have no full scale"):
        load(root, stream=stream)
