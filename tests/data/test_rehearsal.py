"""A few images of a set, or made-up ones of its shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from akdtune.data.dataset import load_data
from akdtune.data.rehearsal import Shape, made_up, some_of
from akdtune.data.store import Stored
from akdtune.settings.data import DataSettings


def stored(labels: list[int], num_classes: int) -> Stored:
    labels_N = np.array(labels, dtype=np.int64)
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(4, 2).repeat(4, 3)
    return Stored(images, labels_N, images, labels_N, num_classes, (0.5,), (0.2,), "of the whole set")


def test_the_first_images_of_each_class_are_taken() -> None:
    some = some_of(stored([0, 0, 0, 0, 0, 0, 1, 2, 2, 1, 1, 1], 3), 6)

    assert isinstance(some, Stored)
    assert some.train_labels.tolist() == [0, 0, 1, 2, 2, 1]
    assert some.train_images[:, 0, 0, 0].tolist() == [0, 1, 6, 7, 8, 9]
    assert some.num_classes == 3
    assert some.content_hash != "of the whole set"


def test_of_many_classes_a_few_with_two_images_each_are_taken() -> None:
    """One to train on and one to validate on: a class of one image leaves nothing to train on."""
    some = some_of(stored([number // 3 for number in range(90)], 30), 8)

    assert some.train_labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert some.num_classes == 30


def test_made_up_images_are_those_of_the_shape_and_always_the_same() -> None:
    first, again = (made_up(Shape(3, 32, 100), 96) for _ in range(2))

    assert first.train_images.shape == (96, 3, 32, 32)
    assert first.test_images.shape == (24, 3, 32, 32)
    assert first.num_classes == 100
    assert np.bincount(first.train_labels).tolist() == [2] * 48
    assert first.content_hash == again.content_hash
    assert (first.train_images == again.train_images).all()


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"name": "cifar100", "validation": 5000}, (3, 32, 100)),
        ({"name": "fashion_mnist", "validation": 5000}, (1, 28, 10)),
        ({"name": "stl10", "validation": 500}, (3, 96, 10)),
        ({"name": "tiny_imagenet", "validation": 500, "size": 32}, (3, 32, 200)),
        ({"name": "imagenet", "validation": 500}, (3, 224, 1000)),
        ({"name": "image_folder", "root": "/nowhere", "size": 48, "validation": 9}, (3, 48, 10)),
        (
            {"name": "parquet", "root": "/nowhere", "train": "a.parquet", "test": "b.parquet", "num_classes": 7,
             "validation": 9, "mean": [0.5], "std": [0.2]},
            (1, 32, 7),
        ),
    ],
)  # fmt: skip
def test_where_files_are_missing_images_are_made_up(
    settings: dict[str, object], shape: tuple[int, int, int], tmp_path: Path
) -> None:
    if "root" not in settings:
        settings = {**settings, "root": str(tmp_path)}
    dataset = load_data(DataSettings(**{**settings, "rehearsal": 40, "validation": 10}), torch.device("cpu"))  # type: ignore[arg-type]

    assert (dataset.inputs.channels, dataset.inputs.size, dataset.inputs.num_classes) == shape
    splits = dataset.split("subset")
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (30, 10, 10)


def test_a_set_that_is_here_is_cut_down() -> None:
    digits = load_data(DataSettings(name="digits", validation=0), torch.device("cpu"))  # type: ignore[call-arg]
    few = load_data(DataSettings(name="digits", validation=0, rehearsal=40), torch.device("cpu"))  # type: ignore[call-arg]

    assert len(few.split("full").train) == 40
    assert np.bincount(few.split("full").train.labels_N.numpy()).tolist() == [4] * 10
    assert few.inputs == digits.inputs
    assert few.content_hash != digits.content_hash
