"""Splits, noise and content hashes, on digits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits

from akdtune.data import crops as data_crops
from akdtune.data import splits
from akdtune.data.crops import Crops, epoch_order
from akdtune.data.dataset import DataSet, add_label_noise, load_data, long_tail, missing_files, proportional
from akdtune.data.splits import Split
from akdtune.datasets.digits import _values
from akdtune.errors import DataError
from akdtune.settings.data import Augmentation, AugmentationSettings, DataSettings, LabelNoise
from akdtune.signals import InputSpec

CPU = torch.device("cpu")
MAIN: dict[str, Any] = {
    "name": "digits",
    "validation": 600,
    "label_noise": {"fraction": 0.4},
    "pixel_noise": {"std": 0.25},
}


def digits(**settings: Any) -> DataSet:
    return load_data(DataSettings(**{"name": "digits", "validation": 600} | settings), CPU)


def stored_images(dataset: DataSet, role: str) -> torch.Tensor:
    images: torch.Tensor = getattr(dataset, f"{role}_pixels").images.images_NCHW
    return images


def per_class(split: Split | None) -> list[int]:
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
    assert dataset.inputs == InputSpec(channels=1, size=8, num_classes=10)
    assert dataset.augmentation == Augmentation(pad=1, flip=False)
    assert missing_files(dataset.settings) == []


def test_splits_are_disjoint_and_ids_are_global() -> None:
    dataset = digits()
    splits = dataset.split("subset")
    assert splits.validation is not None
    parts = [set(part.sample_ids_N.tolist()) for part in (splits.train, splits.validation, splits.test)]
    assert len(set.union(*parts)) == sum(len(part) for part in parts) == 1797
    assert parts[0] | parts[1] == set(dataset.split("full").train.sample_ids_N.tolist())
    assert splits.train.sample_ids_N.dtype == torch.int64


def test_split_seed_moves_images_between_train_and_validation_only() -> None:
    split, other = digits().split("subset"), digits(split_seed=1).split("subset")
    assert not torch.equal(split.train.sample_ids_N, other.train.sample_ids_N)
    assert torch.equal(split.test.sample_ids_N, other.test.sample_ids_N)


def test_split_and_noise_are_the_same_in_another_process() -> None:
    program = (
        "import torch, hashlib; from akdtune.data.dataset import load_data;"
        "from akdtune.settings.data import DataSettings;"
        f"d = load_data(DataSettings(**{MAIN!r}), torch.device('cpu')); s = d.split('subset').train;"
        "x = s.images(torch.arange(len(s)));"
        "print(d.fingerprint('subset'), hashlib.sha256(x.numpy().tobytes() + s.training_labels_N.numpy().tobytes())"
        ".hexdigest())"
    )
    runs = {subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout for _ in range(2)}
    assert len(runs) == 1
    assert load_data(DataSettings(**MAIN), CPU).fingerprint("subset") == runs.pop().split()[0]


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
    assert proportional(np.array([70, 20, 10, 0]), 11).tolist() == [8, 2, 1, 0]


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
    noisy = add_label_noise(labels, np.arange(9000), 10, LabelNoise(fraction=1.0))
    counts = np.bincount(noisy, minlength=10)
    assert counts[3] == 0
    assert ((np.delete(counts, 3) - 1000) ** 2 / 1000).sum() < 27.9  # chi-square, 8 degrees: p < 0.0005


def test_pixel_noise_is_drawn_once_and_has_its_size() -> None:
    clean, noisy, again = digits(), digits(pixel_noise={"std": 0.05}), digits(pixel_noise={"std": 0.05})
    other = digits(pixel_noise={"std": 0.05, "seed": 1})
    images = [stored_images(dataset, "test").float() for dataset in (clean, noisy, again, other)]
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
    centre = Crops(torch.ones(3, dtype=torch.long), torch.ones(3, dtype=torch.long), torch.zeros(3).bool())
    assert torch.equal(train.images(positions, centre), everything[positions])
    corner = Crops(torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long), torch.zeros(3).bool())
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
        ({"name": "digits", "fraction": 0}, "greater than 0"),
        ({"name": "digits", "imbalance": 0.1}, "greater than or equal to 1"),
        ({"name": "digits", "workers": 2}, "'workers' does not belong to the data set 'digits'"),
        ({"name": "digits", "strong": {"mixup": 1}}, "strong has mixup or cutmix; allowed only in augmentation"),
        ({"name": "digits", "augmentation": "week"}, "Input should be 'weak' or 'strong'"),
    ],
)
def test_settings_of_another_data_set_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DataSettings(**{"validation": 10} | settings)
    assert message in str(caught.value)


def test_settings_survive_a_round_trip() -> None:
    settings = DataSettings(**MAIN)
    assert DataSettings(**settings.model_dump()) == settings


def test_importing_data_leaves_heavy_readers_alone() -> None:
    program = (
        "import sys, akdtune.data.dataset;"
        "print([m for m in ('sklearn', 'torchvision', 'pyarrow', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def inline(dataset: DataSet, split: Split, epoch: int, batch_size: int) -> list[Any]:
    """An epoch as written out by hand: order, crops, images."""
    drawn = data_crops.crops(7, epoch, split.sample_ids_N, dataset.augmentation)
    batches = []
    for positions in torch.split(epoch_order(7, epoch, split.sample_ids_N), batch_size):
        if len(positions) > 1:
            crops = Crops(*(part[positions] for part in drawn))
            batches.append((positions, crops, split.images(positions, crops)))
    return batches


def test_digits_are_scikit_learns_and_need_no_import_of_it(tmp_path: Path) -> None:
    program = (
        "import sys, torch;"
        "from akdtune.data.dataset import load_data;"
        "from akdtune.settings.data import DataSettings;"
        "read = load_data(DataSettings(name='digits', validation=10), torch.device('cpu'));"
        "print(read.content_hash, 'sklearn' in sys.modules)"
    )
    empty = os.environ | {"AKDTUNE_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=empty)
    assert done.stdout.split() == [digits().content_hash, "False"]
    images, labels = load_digits(return_X_y=True)
    assert np.array_equal(_values(), np.column_stack([images, labels]))


@pytest.mark.parametrize("at_once_mib", [0, splits.MADE_AT_ONCE_MIB])
def test_an_epoch_is_order_crops_and_images_and_leaves_single_images_out(
    at_once_mib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "MADE_AT_ONCE_MIB", at_once_mib)
    dataset = digits()
    split = dataset.split("subset").train
    assert split.crops_only
    for batch_size in (64, 13):  # 300 = 23 * 13 + 1
        expected = inline(dataset, split, 2, batch_size)
        loaded = list(split.epoch(7, 2, batch_size))
        assert len(loaded) == len(expected) == (5 if batch_size == 64 else 23)
        for batch, (positions, crops, images) in zip(loaded, expected, strict=True):
            assert torch.equal(batch.positions_B, positions)
            assert batch.crops_B is not None and batch.inputs is not None
            assert all(torch.equal(crop, other) for crop, other in zip(batch.crops_B, crops, strict=True))
            assert torch.equal(batch.inputs, images)
            assert (batch.strong, batch.partner_B, batch.share) == (None, None, 1.0)


@pytest.mark.parametrize("augmentation", [None, {"cutout": 3, "mixup": 0.5}])
def test_images_that_nobody_asks_for_are_not_made(augmentation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    split = digits(augmentation=augmentation).split("subset").train
    whole = list(split.epoch(7, 1, 64))
    for name in ("augment", "augmented", "normalised"):
        monkeypatch.setattr(splits, name, None)
    blind = list(split.epoch(7, 1, 64, images=False))
    assert [batch.share for batch in blind] == [batch.share for batch in whole]
    assert all(batch.inputs is None for batch in blind)
    assert all(torch.equal(batch.positions_B, other.positions_B) for batch, other in zip(blind, whole, strict=True))
    assert all((batch.crops_B is None) == (augmentation is not None) for batch in blind)


def test_strong_images_are_other_crops_of_the_same_samples() -> None:
    dataset = digits(strong={"pad": 1, "randaugment": {"ops": 0}, "cutout": 0})
    split = dataset.split("subset").train
    batch = next(split.epoch(7, 1, 64, strong=True))
    again = next(split.epoch(7, 1, 64, strong=True))
    weak = next(split.epoch(7, 1, 64))
    assert batch.inputs is not None and batch.strong is not None
    assert again.strong is not None and weak.inputs is not None
    assert torch.equal(batch.inputs, weak.inputs)
    assert torch.equal(batch.strong, again.strong)
    other = data_crops.crops(7, 1, split.sample_ids_N, dataset.strong, view=1)
    crops = Crops(*(part[batch.positions_B] for part in other))
    assert torch.equal(batch.strong, split.images(batch.positions_B, crops))
    assert not torch.equal(batch.strong, batch.inputs)


def test_published_strong_images_by_default() -> None:
    dataset = digits()
    assert dataset.strong.facts() == {
        "pad": 1,
        "flip": False,
        "randaugment": {"ops": 2, "magnitude": None},
        "cutout": 4,
        "cutout_random": True,
    }
    batch = next(dataset.split("subset").train.epoch(7, 1, 16, images=False, strong=True))
    assert batch.inputs is None and batch.strong is not None
    assert batch.strong.shape == (16, 1, 8, 8)
    assert bool(batch.strong.isfinite().all())


def test_mixed_images_are_those_of_the_batch_in_their_shares() -> None:
    plain = digits(augmentation={"pad": 0, "flip": False}).split("subset").train
    mixed = digits(augmentation={"pad": 0, "flip": False, "mixup": 1.0}).split("subset").train
    assert not mixed.crops_only
    for batch, other in zip(plain.epoch(7, 1, 64, strong=True), mixed.epoch(7, 1, 64, strong=True), strict=True):
        assert torch.equal(batch.positions_B, other.positions_B)
        assert other.partner_B is not None and other.crops_B is None
        for whole, both in ((batch.inputs, other.inputs), (batch.strong, other.strong)):
            assert whole is not None and both is not None
            expected = other.share * whole + (1 - other.share) * whole[other.partner_B]
            assert torch.allclose(both, expected, atol=1e-6)


def test_validation_and_test_images_are_never_augmented() -> None:
    plain, strong = digits().split("subset"), digits(augmentation="strong").split("subset")
    for images_of, other in ((plain.test, strong.test), (plain.validation, strong.validation)):
        assert images_of is not None and other is not None
        read = torch.cat([images for _, images in other.plain_batches(100)])
        assert torch.equal(read, images_of.images(torch.arange(len(images_of))))


def test_fingerprint_knows_the_augmentation_of_training_but_not_the_strong_one() -> None:
    plain = digits()
    every = [None, {"cutout": 4}, {"mixup": 0.2}, {"cutmix": 0.2}, "strong", {"random_resized_crop": {}}]
    assert len({digits(augmentation=augmentation).fingerprint("subset") for augmentation in every}) == len(every)
    assert digits(strong={"cutout": 2}).fingerprint("subset") == plain.fingerprint("subset")
    assert digits(augmentation="weak").fingerprint("subset") == plain.fingerprint("subset")


@pytest.mark.parametrize("given", ["strong", {"cutout": 4}, {"pad": 0}, {"mixup": 0.4}, {"rotation": 15}])
def test_the_same_images_under_another_augmentation_are_those_of_data_that_have_it(given: Any) -> None:
    plain, asked = digits(), digits(augmentation=given)
    other = plain.under(AugmentationSettings.model_validate(given), "training.augmentation")
    assert (other.augmentation, other.augmented_by) == (asked.augmentation, "training.augmentation")
    assert other.fingerprint("subset") == asked.fingerprint("subset") != plain.fingerprint("subset")
    batches = (dataset.split("subset").train.epoch(7, 1, 64, strong=True) for dataset in (other, asked))
    for batch, expected in zip(*batches, strict=True):
        for name in ("inputs", "strong"):
            images, same = getattr(batch, name), getattr(expected, name)
            assert torch.equal(images, same)
    assert plain.augmentation == Augmentation(pad=1, flip=False), "untouched"
    assert other.train_pixels.images is plain.train_pixels.images, "and not copied"
    back = other.under(None, "training.augmentation")
    assert (back.fingerprint("subset"), back.augmented_by) == (plain.fingerprint("subset"), "data.augmentation")


def test_what_is_no_other_augmentation_is_the_same_data() -> None:
    plain, strong = digits(), digits(augmentation="strong")
    assert plain.under(None, "a") is plain.under(AugmentationSettings(), "a") is plain
    assert plain.under(AugmentationSettings(pad=1), "a") is plain, "as digits have it by themselves"
    assert strong.under(None, "a") is strong
    assert strong.under(AugmentationSettings(), "a").augmentation == plain.augmentation
    message = r"teacher\.others\[0\]\.augmentation\.cutout is 9, the images have 8 pixels \(allowed: 0\.\.8\)"
    with pytest.raises(DataError, match=message):
        plain.under(AugmentationSettings(cutout=9), "teacher.others[0].augmentation")


@pytest.mark.parametrize(("classes", "each", "total"), [(100, 500, 10_847), (10, 5000, 12_406)])
def test_long_tail_has_the_published_number_of_images(classes: int, each: int, total: int) -> None:
    """CIFAR-100-LT and CIFAR-10-LT at an imbalance of 100."""
    counts = long_tail(np.full(classes, each), 100)
    assert counts.sum() == total
    assert (counts[0], counts[-1]) == (each, each // 100)
    assert (np.diff(counts) <= 0).all()


def test_long_tail_of_uneven_classes_takes_no_more_than_there_is() -> None:
    assert long_tail(np.array([10, 40, 0, 3]), 8).tolist() == [10, 20, 0, 3]
    assert long_tail(np.array([9]), 8).tolist() == [9]
    assert long_tail(np.array([5, 5]), 100).tolist() == [5, 1]


def test_imbalance_and_fraction_thin_out_training_only_and_are_nested() -> None:
    def ids(**settings: Any) -> set[int]:
        return set(digits(**settings).split("subset").train.sample_ids_N.tolist())

    whole, thin = digits().split("subset"), digits(imbalance=10, fraction=0.5).split("subset")
    expected = [int(30 * 10 ** (-k / 9) + 1e-9) for k in range(10)]
    assert per_class(digits(imbalance=10).split("subset").train) == expected == [30, 23, 17, 13, 10, 8, 6, 5, 3, 3]
    assert per_class(thin.train) == [15, 12, 9, 7, 5, 4, 3, 3, 2, 2]
    assert torch.equal(thin.train.labels_N, thin.train.training_labels_N)
    for full, other in ((whole.validation, thin.validation), (whole.test, thin.test)):
        assert full is not None and other is not None
        assert torch.equal(full.sample_ids_N, other.sample_ids_N)
    assert ids(imbalance=50) < ids(imbalance=10) < ids(imbalance=2) < ids()
    assert ids(fraction=0.01) < ids(fraction=0.1) < ids(fraction=0.5) < ids()
    assert per_class(digits(fraction=0.01).split("subset").train) == [1] * 10
    assert ids(fraction=1.0) == ids(imbalance=1) == ids()
    assert ids(fraction=0.5, split_seed=1) != ids(fraction=0.5)
    assert per_class(digits(imbalance=9).split("full").train)[::9] == [90, 10]
    prints = [digits(**thinned).fingerprint("full") for thinned in ({}, {"fraction": 0.5}, {"imbalance": 3})]
    assert len(set(prints)) == 3


def test_label_noise_counts_the_images_that_are_left() -> None:
    train = digits(fraction=0.5, label_noise={"fraction": 0.4}).split("subset").train
    assert int((train.labels_N != train.training_labels_N).sum()) == 60
