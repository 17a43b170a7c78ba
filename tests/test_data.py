"""Splits, noise and content hashes, on digits."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from akdtune import data
from akdtune.errors import DataError

CPU = torch.device("cpu")
MAIN: dict[str, Any] = {
    "name": "digits",
    "validation": 600,
    "label_noise": {"fraction": 0.4},
    "pixel_noise": {"std": 0.25},
}


def digits(**settings: Any) -> data.DataSet:
    return data.load(data.DataSettings(**{"name": "digits", "validation": 600} | settings), CPU)


def per_class(split: data.Split | None) -> list[int]:
    assert split is not None
    return torch.bincount(split.labels_N, minlength=10).tolist()


def test_digits_split_has_the_stated_sizes() -> None:
    dataset = digits()
    splits = dataset.split("subset")
    assert per_class(splits.train) == [30] * 10
    assert per_class(splits.validation) == [60] * 10
    assert len(splits.test) == 1797 - 900
    full = dataset.split("full")
    assert full.validation is None
    assert per_class(full.train) == [90] * 10
    assert dataset.inputs == data.InputSpec(channels=1, size=8, num_classes=10)
    assert dataset.augmentation == data.Augmentation(pad=1, flip=False)
    assert data.missing_files(dataset.settings) == []


def test_splits_are_disjoint_and_ids_are_global() -> None:
    dataset = digits()
    splits = dataset.split("subset")
    assert splits.validation is not None
    parts = [set(part.sample_ids_N.tolist()) for part in (splits.train, splits.validation, splits.test)]
    assert len(set.union(*parts)) == sum(len(part) for part in parts) == 1797
    assert parts[0] | parts[1] == set(dataset.split("full").train.sample_ids_N.tolist())
    assert splits.train.sample_ids_N.dtype == torch.int64


def test_split_seed_moves_images_between_train_and_validation_only() -> None:
    one, other = digits().split("subset"), digits(split_seed=1).split("subset")
    assert not torch.equal(one.train.sample_ids_N, other.train.sample_ids_N)
    assert torch.equal(one.test.sample_ids_N, other.test.sample_ids_N)


def test_split_and_noise_are_the_same_in_another_process() -> None:
    program = (
        "import torch, hashlib; from akdtune import data;"
        f"d = data.load(data.DataSettings(**{MAIN!r}), torch.device('cpu')); s = d.split('subset').train;"
        "x = s.images(torch.arange(len(s)));"
        "print(d.fingerprint('subset'), hashlib.sha256(x.numpy().tobytes() + s.training_labels_N.numpy().tobytes())"
        ".hexdigest())"
    )
    runs = {subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout for _ in range(2)}
    assert len(runs) == 1
    assert data.load(data.DataSettings(**MAIN), CPU).fingerprint("subset") == runs.pop().split()[0]


def test_limit_per_class_is_applied_before_validation_and_is_nested() -> None:
    small, large = digits(limit_per_class=12, validation=50), digits(limit_per_class=30, validation=50)
    assert per_class(small.split("full").train) == [12] * 10
    assert per_class(small.split("subset").train) == [7] * 10
    assert per_class(small.split("subset").validation) == [5] * 10
    ids = [set(dataset.split("full").train.sample_ids_N.tolist()) for dataset in (small, large)]
    assert ids[0] < ids[1]


def test_validation_is_shared_out_as_evenly_as_possible() -> None:
    assert sorted(per_class(digits(validation=25).split("subset").validation)) == [2] * 5 + [3] * 5


def test_uneven_classes_keep_their_proportions() -> None:
    assert data._proportional(np.array([70, 20, 10, 0]), 11).tolist() == [8, 2, 1, 0]


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (0, "data.validation is 0, but trials of a search are selected on validation images"),
        (900, "data.validation is 900 of 900 images in the training pool, which leaves class 0 no training image"),
        (5000, "data.validation is 5000 of 900 images in the training pool, which leaves class 0 no training image"),
        (895, "data.validation is 895 of 900 images in the training pool, which leaves class 0 no training image"),
    ],
)
def test_impossible_validation_is_refused(validation: int, message: str) -> None:
    with pytest.raises(DataError) as caught:
        digits(validation=validation).split("subset")
    assert str(caught.value) == message


def test_label_noise_touches_exactly_its_share_of_training_labels_only() -> None:
    splits = digits(label_noise={"fraction": 0.4}).split("subset")
    wrong = splits.train.labels_N != splits.train.training_labels_N
    assert int(wrong.sum()) == 120
    assert splits.train.training_labels_N.max() <= 9
    assert splits.train.training_labels_N.min() >= 0
    for clean in (splits.validation, splits.test):
        assert clean is not None
        assert torch.equal(clean.labels_N, clean.training_labels_N)
    other = digits(label_noise={"fraction": 0.4, "seed": 1}).split("subset")
    assert torch.equal(other.train.labels_N, splits.train.labels_N)
    assert not torch.equal(other.train.training_labels_N, splits.train.training_labels_N)


def test_noisy_labels_are_uniform_over_the_other_classes() -> None:
    labels = np.full(9000, 3)
    noisy = data.add_label_noise(labels, np.arange(9000), 10, data.LabelNoise(fraction=1.0))
    counts = np.bincount(noisy, minlength=10)
    assert counts[3] == 0
    assert ((np.delete(counts, 3) - 1000) ** 2 / 1000).sum() < 27.9  # chi-square, 8 degrees: p < 0.0005


def test_pixel_noise_is_drawn_once_and_has_its_size() -> None:
    clean, noisy, again = digits(), digits(pixel_noise={"std": 0.05}), digits(pixel_noise={"std": 0.05})
    other = digits(pixel_noise={"std": 0.05, "seed": 1})
    images = [dataset._test_images_NCHW.float() for dataset in (clean, noisy, again, other)]
    middle = (images[0] > 64) & (images[0] < 192)  # where clipping cannot act
    difference = (images[1] - images[0])[middle]
    assert abs(float(difference.mean())) < 0.5
    assert float(difference.std()) == pytest.approx(255 * 0.05, rel=0.03)
    assert torch.equal(images[1], images[2])
    assert not torch.equal(images[1], images[3])


def test_images_are_normalised_and_cropped_on_request() -> None:
    dataset = digits()
    train = dataset.split("full").train
    everything = train.images(torch.arange(len(train)))
    assert everything.shape == (900, 1, 8, 8)
    assert abs(float(everything.mean())) < 1e-5
    assert float(everything.std(correction=0)) == pytest.approx(1, abs=1e-5)
    positions = torch.tensor([4, 2, 7])
    centre = data.Crops(torch.ones(3, dtype=torch.long), torch.ones(3, dtype=torch.long), torch.zeros(3).bool())
    assert torch.equal(train.images(positions, centre), everything[positions])
    corner = data.Crops(torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long), torch.zeros(3).bool())
    assert torch.equal(train.images(positions, corner)[:, :, 1:, 1:], everything[positions][:, :, :-1, :-1])


def test_positions_of_a_split_are_the_images_of_its_sample_ids() -> None:
    dataset = digits()
    validation, full = dataset.split("subset").validation, dataset.split("full").train
    assert validation is not None
    picked = torch.tensor([5, 599, 0])
    assert torch.equal(validation.images(picked), full.images(validation.sample_ids_N[picked]))
    assert torch.equal(validation.labels_N[picked], full.labels_N[validation.sample_ids_N[picked]])


def test_content_hash_ignores_split_and_noise_but_fingerprint_does_not() -> None:
    plain, split, noise = digits(), digits(split_seed=1), digits(pixel_noise={"std": 0.1})
    labels, crop = digits(label_noise={"fraction": 0.5}), digits(augmentation={"pad": 0, "flip": False})
    assert {d.content_hash for d in (plain, split, noise, labels, crop)} == {plain.content_hash}
    assert len({d.fingerprint("subset") for d in (plain, split, noise, crop)}) == 4
    assert plain.fingerprint("subset") != plain.fingerprint("full")
    assert plain.fingerprint("full") == split.fingerprint("full")
    assert plain.fingerprint("subset") == labels.fingerprint("subset")


def test_mean_and_std_are_settings() -> None:
    assert digits(mean=[0.25], std=[0.5]).mean_C.tolist() == [0.25]
    with pytest.raises(DataError, match=r"data.mean has 3 numbers, the images have 1 channel"):
        digits(mean=[0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "digit"}, "unknown data set 'digit'; did you mean 'digits'?"),
        (
            {"name": "digits", "train": "a"},
            "'train' does not belong to the data set 'digits' (settings of its own",
        ),
        ({"name": "cifar10", "num_classes": 3}, "'num_classes' does not belong to the data set 'cifar10'"),
        ({"name": "parquet", "download": True, "train": "a", "test": "b"}, "'download' does not belong"),
        ({"name": "parquet", "train": "a"}, "the data set 'parquet' needs test"),
        ({"name": "digits", "std": [0.0]}, "std must be positive"),
        ({"name": "digits", "validation": -1}, "greater than or equal to 0"),
        ({"name": "digits", "colour": 1}, "Extra inputs are not permitted"),
    ],
)
def test_settings_of_another_data_set_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        data.DataSettings(**{"validation": 10} | settings)
    assert message in str(caught.value)


def test_settings_survive_a_round_trip() -> None:
    settings = data.DataSettings(**MAIN)
    assert data.DataSettings(**settings.model_dump()) == settings


def test_importing_data_leaves_heavy_readers_alone() -> None:
    program = (
        "import sys, akdtune.data; print([m for m in ('sklearn', 'torchvision', 'pyarrow', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
