"""Counter-based draws, and crop + flip + normalise against torchvision."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from akdtune.data import image_ops
from akdtune.data.crops import Crops, augment, crops, epoch_order, variant_crops
from akdtune.data.mixing import draw_mix
from akdtune.errors import DataError
from akdtune.randomness import Draw, Stream, philox4x32, random_words
from akdtune.settings.data import (
    Augmentation,
    AugmentationSettings,
    RandAugment,
    RandomResizedCrop,
    strong_augmentation,
)

PAD4 = Augmentation(pad=4, flip=True)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_known_answers(counter: list[int], key: tuple[int, int], answer: list[int]) -> None:
    words = philox4x32(np.array(counter, dtype=np.uint64)[:, None], key)
    assert words[:, 0].tolist() == answer


def test_philox_agrees_with_a_scalar_retyping() -> None:
    ids = np.array([0, 7, 2**40 + 5], dtype=np.int64)
    words = random_words(-3, 9, ids, Stream.CROP)
    seed = -3 % 2**64
    for column, sample in enumerate(ids.tolist()):
        c = [sample & 0xFFFFFFFF, sample >> 32, 9, int(Stream.CROP)]
        k = [seed & 0xFFFFFFFF, seed >> 32]
        for _ in range(10):
            a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
            k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
        assert words[:, column].tolist() == c


def test_crops_and_order_of_a_sample_do_not_depend_on_the_others() -> None:
    everything = torch.arange(1000)
    some = torch.tensor([900, 3, 41, 512])
    of_all, of_some = crops(5, 2, everything, PAD4), crops(5, 2, some, PAD4)
    for part, other in zip(of_all, of_some, strict=True):
        assert torch.equal(part[some], other)
    ranks = torch.empty(1000, dtype=torch.long)
    ranks[epoch_order(5, 2, everything)] = torch.arange(1000)
    assert some[epoch_order(5, 2, some)].tolist() == sorted(some.tolist(), key=lambda i: int(ranks[i]))


def test_seed_epoch_and_stream_change_the_draws() -> None:
    ids = np.arange(64)
    draws = [random_words(s, e, ids, stream) for s, e, stream in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2))]
    assert all((draws[0] != other).any() for other in draws[1:])


def test_order_is_a_permutation_and_crops_cover_all_variants_evenly() -> None:
    ids = torch.arange(20_000)
    assert torch.equal(epoch_order(0, 1, ids).sort().values, ids)
    counts = torch.bincount(crops(0, 1, ids, PAD4).variant_N(PAD4), minlength=PAD4.variants)
    assert len(counts) == 162
    expected = 20_000 / 162
    assert float(((counts - expected) ** 2 / expected).sum()) < 230  # chi-square, 161 degrees: p < 0.0003
    plain = crops(0, 1, ids, Augmentation(pad=0, flip=False))
    assert not any(part.any() for part in plain)


@pytest.mark.parametrize("augmentation", [PAD4, Augmentation(pad=1, flip=False), Augmentation(pad=0, flip=True)])
def test_variant_numbers_are_a_bijection(augmentation: Augmentation) -> None:
    numbers = torch.arange(augmentation.variants)
    back = variant_crops(numbers, augmentation)
    assert torch.equal(back.variant_N(augmentation), numbers)
    assert back.dy_N.max() == 2 * augmentation.pad
    assert bool(back.flip_N.any()) == augmentation.flip


@pytest.mark.parametrize(("channels", "size", "pad"), [(3, 32, 4), (1, 28, 2), (1, 8, 1), (3, 9, 0)])
def test_augment_equals_torchvision(channels: int, size: int, pad: int) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, channels, size, size), generator=generator, dtype=torch.uint8)
    mean, std = torch.tensor([0.5071, 0.4867, 0.4408][:channels]), torch.tensor([0.2675, 0.2565, 0.2761][:channels])
    augmentation = Augmentation(pad=pad, flip=True)
    positions = torch.randperm(40, generator=generator)[:30]
    drawn = crops(1, 1, positions, augmentation)
    ours = augment(images, positions, drawn, augmentation, mean, std)
    assert ours.dtype == torch.float32
    for row, position in enumerate(positions.tolist()):
        image = functional.pad(images[position], [pad] * 4)
        image = functional.crop(image, int(drawn.dy_N[row]), int(drawn.dx_N[row]), size, size)
        image = functional.horizontal_flip(image) if drawn.flip_N[row] else image
        image = functional.normalize(functional.to_dtype(image, torch.float32, scale=True), mean.tolist(), std.tolist())
        assert (ours[row] - image).abs().max() <= 1e-6
    plain = augment(images, positions, None, augmentation, mean, std)
    whole = functional.to_dtype(images[positions], torch.float32, scale=True)
    assert (plain - functional.normalize(whole, mean.tolist(), std.tolist())).abs().max() <= 1e-6


def test_augment_does_not_depend_on_the_batch_size() -> None:
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
    mean = std = torch.full((3,), 0.5)
    ids = torch.arange(20)
    drawn = crops(0, 3, ids, PAD4)
    whole = augment(images, ids, drawn, PAD4, mean, std)
    parts = [augment(images, p, Crops(*(part[p] for part in drawn)), PAD4, mean, std) for p in ids.split(7)]
    assert torch.equal(whole, torch.cat(parts))


def test_streams_have_their_own_numbers_and_old_ones_stay() -> None:
    assert len({int(stream) for stream in Stream}) == len(Stream)
    ids, draw = np.arange(50), Draw(3, 4)
    assert np.array_equal(draw.words(ids, Stream.CROP), random_words(3, 4, ids, Stream.CROP))
    draws = [draw.words(ids, Stream.CROP, index) for index in range(3)]
    draws += [draw._replace(view=1).words(ids, Stream.CROP, index) for index in range(3)]
    assert len({words.tobytes() for words in draws}) == 6


# torchvision's own names of the operations, and what it makes of a strength of 9 of 30.
TORCHVISION = {
    "identity": ("Identity", 0.0),
    "shear_x": ("ShearX", 0.09),
    "shear_y": ("ShearY", 0.09),
    "translate_x": ("TranslateX", 150 / 331 * 64 * 0.3),
    "translate_y": ("TranslateY", 150 / 331 * 64 * 0.3),
    "rotate": ("Rotate", 9.0),
    "brightness": ("Brightness", 0.27),
    "color": ("Color", 0.27),
    "contrast": ("Contrast", 0.27),
    "sharpness": ("Sharpness", 0.27),
    "posterize": ("Posterize", 7.0),
    "solarize": ("Solarize", 0.7),
    "auto_contrast": ("AutoContrast", 0.0),
    "equalize": ("Equalize", 0.0),
}
UNSIGNED = {"identity", "posterize", "solarize", "auto_contrast", "equalize"}


@pytest.fixture(scope="module")
def torchvision_v2() -> Any:
    return pytest.importorskip("torchvision.transforms.v2")


@pytest.mark.parametrize("name", image_ops.OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_equal_torchvision(torchvision_v2: Any, name: str, channels: int) -> None:
    image = torch.randint(0, 200, (channels, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    theirs, magnitude = TORCHVISION[name]
    whole = torchvision_v2.RandAugment()
    for sign in (1.0, -1.0):
        signed = magnitude if name in UNSIGNED else magnitude * sign
        expected = whole._apply_image_or_video_transform(image, theirs, signed, whole.interpolation, whole._fill)
        got = image_ops.operate(image, name, 0.3, sign)
        assert got.dtype == torch.uint8
        assert (got.int() - expected.int()).abs().max() <= (0 if name in UNSIGNED else 1)
        if name not in ("identity", "color"):
            assert not torch.equal(got, image)


def test_randaugment_of_an_image_does_not_depend_on_its_batch(torchvision_v2: Any) -> None:
    images = torch.randint(0, 256, (30, 3, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    ids, draw, settings = np.arange(100, 130), Draw(1, 2), RandAugment(ops=2)
    whole = image_ops.randaugmented(images, ids, draw, settings)
    some = [29, 3, 17]
    assert torch.equal(whole[some], image_ops.randaugmented(images[some], ids[some], draw, settings))
    assert not torch.equal(whole, image_ops.randaugmented(images, ids, Draw(1, 3), settings))
    assert not torch.equal(whole, image_ops.randaugmented(images, ids, draw._replace(view=1), settings))
    fixed = image_ops.randaugmented(images, ids, draw, RandAugment(ops=1, magnitude=0))
    assert not torch.equal(fixed, images)  # auto_contrast and equalize have no magnitude
    assert int((fixed == images).flatten(1).all(1).sum()) > 15  # most others do nothing at 0


def test_randaugment_draws_operations_and_magnitudes_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float, float]] = []

    def watch(image: torch.Tensor, name: str, strength: float, sign: float) -> torch.Tensor:
        seen.append((name, strength, sign))
        return image

    monkeypatch.setattr(image_ops, "operate", watch)
    images = torch.zeros((2800, 1, 1, 1), dtype=torch.uint8)
    image_ops.randaugmented(images, np.arange(2800), Draw(0, 1), RandAugment(ops=2))
    names = [name for name, _, _ in seen]
    counts = np.array([names.count(name) for name in image_ops.OPERATIONS])
    assert counts.sum() == 5600
    assert ((counts - 400) ** 2 / 400).sum() < 36  # chi-square, 13 degrees: p < 0.0006
    strengths = np.array([strength for _, strength, _ in seen])
    assert ((np.histogram(strengths, bins=10, range=(0, 1))[0] - 560) ** 2 / 560).sum() < 29  # 9 degrees
    assert abs(np.mean([sign for _, _, sign in seen])) < 0.05
    assert names[:2800] != names[2800:]  # the second operation is another draw


def test_rotation_turns_each_image_by_its_own_angle(torchvision_v2: Any) -> None:
    images = torch.randint(0, 256, (400, 1, 9, 9), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    ids, draw = np.arange(400), Draw(3, 2)
    turned = image_ops.rotated(images, ids, draw, 15.0)
    angles = 15.0 * (2 * (draw.words(ids, Stream.ROTATION)[0] / 2**32) - 1)
    assert -15 <= angles.min() < -14.5 and 14.5 < angles.max() < 15 and abs(angles.mean()) < 1
    for row in (0, 17, 399):
        assert torch.equal(turned[row], torchvision_v2.functional.rotate(images[row], float(angles[row])))
    some = [29, 3, 17]
    assert torch.equal(turned[some], image_ops.rotated(images[some], ids[some], draw, 15.0))
    assert not torch.equal(turned, image_ops.rotated(images, ids, draw._replace(view=1), 15.0))
    alone = Augmentation(pad=0, flip=False, rotation=15.0)
    assert torch.equal(image_ops.augmented(images, ids, draw, alone, 9), turned)


@pytest.mark.parametrize("policy", ["cifar10", "imagenet", "svhn"])
def test_policies_are_pairs_of_known_operations(torchvision_v2: Any, policy: str) -> None:
    pairs = image_ops.policy_pairs(policy)
    assert len(pairs) == 25 and all(len(pair) == 2 for pair in pairs)
    operations = [operation for pair in pairs for operation in pair]
    assert {name for name, _, _ in operations} <= {*image_ops.OPERATIONS, "invert"}
    assert all(0 <= chance <= 1 and 0 <= strength <= 1 for _, chance, strength in operations)
    if policy == "cifar10":
        assert pairs[0] == [("invert", 0.1, 0.0), ("contrast", 0.2, 6 / 9)]
        assert pairs[1] == [("rotate", 0.7, 2 / 9), ("translate_x", 0.3, 1.0)]


def test_operations_of_the_policy_equal_torchvision(torchvision_v2: Any) -> None:
    image = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    theirs = torchvision_v2.AutoAugment(torchvision_v2.AutoAugmentPolicy.CIFAR10)
    for their_pair, pair in zip(theirs._policies, image_ops.policy_pairs("cifar10"), strict=True):
        for (their_name, chance, place), (name, own_chance, strength) in zip(their_pair, pair, strict=True):
            assert own_chance == chance
            magnitudes, signed = theirs._AUGMENTATION_SPACE[their_name]
            magnitude = 0.0 if place is None else float(magnitudes(10, 64, 64)[place])
            for sign in (1.0, -1.0):
                expected = theirs._apply_image_or_video_transform(
                    image, their_name, magnitude * (sign if signed else 1.0), theirs.interpolation, theirs._fill
                )
                got = image_ops.operate(image, name, strength, sign)
                assert (got.int() - expected.int()).abs().max() <= (1 if signed else 0), (their_name, place)


def test_autoaugment_draws_pairs_chances_and_directions(
    torchvision_v2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, float, float]] = []

    def watch(image: torch.Tensor, name: str, strength: float, sign: float) -> torch.Tensor:
        seen.append((name, strength, sign))
        return image

    monkeypatch.setattr(image_ops, "operate", watch)
    image_ops.autoaugmented(torch.zeros((5000, 1, 1, 1), dtype=torch.uint8), np.arange(5000), Draw(0, 1), "cifar10")
    expected: dict[tuple[str, float], float] = {}
    for pair in image_ops.policy_pairs("cifar10"):
        for name, chance, strength in pair:
            expected[name, strength] = expected.get((name, strength), 0.0) + 200 * chance
    counts = Counter((name, strength) for name, strength, _ in seen)
    assert set(counts) <= set(expected)
    for key, mean in expected.items():
        assert abs(counts[key] - mean) < 4 * max(mean, 1) ** 0.5, key
    assert abs(np.mean([sign for _, _, sign in seen])) < 0.05


def test_autoaugment_of_an_image_does_not_depend_on_its_batch(torchvision_v2: Any) -> None:
    images = torch.randint(0, 256, (30, 3, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    ids, draw, some = np.arange(100, 130), Draw(1, 2), [29, 3, 17]
    whole = image_ops.autoaugmented(images, ids, draw, "cifar10")
    assert torch.equal(whole[some], image_ops.autoaugmented(images[some], ids[some], draw, "cifar10"))
    assert not torch.equal(whole, image_ops.autoaugmented(images, ids, Draw(1, 3), "cifar10"))
    assert not torch.equal(whole, image_ops.autoaugmented(images, ids, draw._replace(view=1), "cifar10"))
    alone = Augmentation(pad=0, flip=False, autoaugment="cifar10")
    assert torch.equal(image_ops.augmented(images, ids, draw, alone, 12), whole)


def test_resized_crops_are_inside_with_the_asked_areas_and_ratios() -> None:
    settings, ids = RandomResizedCrop(), np.arange(1500)
    boxes = np.array(image_ops.resized_crop_boxes((90, 120), ids, Draw(0, 1), settings))
    top, left, height, width = boxes.T
    assert (boxes[:, :2] >= 0).all() and (top + height <= 90).all() and (left + width <= 120).all()
    area, ratio = height * width / (90 * 120), width / height
    assert 0.07 < area.min() < 0.1 and 0.9 < area.max() <= 1
    assert 0.72 < ratio.min() < 0.78 and 1.3 < ratio.max() < 1.38
    square = np.array(image_ops.resized_crop_boxes((99, 99), ids, Draw(0, 1), settings))
    assert abs(float(np.log(square[:, 3] / square[:, 2]).mean())) < 0.02
    some = image_ops.resized_crop_boxes((90, 120), ids[[700, 5]], Draw(0, 1), settings)
    assert some == [tuple(boxes[700]), tuple(boxes[5])]


def test_a_resized_crop_that_never_fits_is_the_middle() -> None:
    ids, square = np.arange(3), RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert set(image_ops.resized_crop_boxes((20, 50), ids, Draw(0, 1), square)) == {(0, 15, 20, 20)}
    assert set(image_ops.resized_crop_boxes((50, 20), ids, Draw(0, 1), square)) == {(15, 0, 20, 20)}
    assert set(image_ops.resized_crop_boxes((20, 20), ids, Draw(0, 1), square)) == {(0, 0, 20, 20)}


def test_resized_crop_equals_torchvision(torchvision_v2: Any) -> None:
    images = torch.randint(0, 256, (6, 3, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    ids, draw, augmentation = (
        np.arange(6),
        Draw(4, 1),
        Augmentation(pad=0, flip=True, random_resized_crop=RandomResizedCrop(scale=(0.3, 1.0))),
    )
    got = image_ops.augmented(images, ids, draw, augmentation, 24)
    assert augmentation.random_resized_crop is not None
    boxes = image_ops.resized_crop_boxes((24, 24), ids, draw, augmentation.random_resized_crop)
    flips = crops(4, 1, torch.from_numpy(ids), augmentation).flip_N
    assert 0 < int(flips.sum()) < 6
    for row, box in enumerate(boxes):
        expected = torchvision_v2.functional.resized_crop(images[row], *box, [24, 24], antialias=True)
        expected = expected.flip(-1) if flips[row] else expected
        assert (got[row].int() - expected.int()).abs().max() <= 1


def test_cutout_blanks_a_square_around_any_pixel() -> None:
    images, ids = torch.ones(2000, 2, 10, 10), np.arange(2000)
    fixed = Augmentation(pad=0, flip=False, cutout=4)
    holes = image_ops.blanked(images, ids, Draw(0, 1), fixed) == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    area = holes[:, 0].sum(dim=(1, 2))
    assert int(area.max()) == 16 and int(area.min()) == 4  # a corner cuts it to 2x2
    centre = holes[:, 0].double().mean(dim=0)
    assert torch.allclose(centre, centre.T, atol=0.04)
    assert float(centre[5, 5]) == pytest.approx(0.16, abs=0.03)
    drawn = image_ops.blanked(images, ids, Draw(0, 1), Augmentation(pad=0, flip=False, cutout=5, cutout_random=True))
    sizes = (drawn[:, 0] == 0).any(dim=2).sum(dim=1)
    assert int(sizes.min()) == 0 and int(sizes.max()) == 5
    assert image_ops.blanked(images, ids, Draw(0, 1), PAD4) is images


def own_shares(alpha: str, value: float, count: int = 400) -> np.ndarray[Any, Any]:
    augmentation = Augmentation(pad=0, flip=False, **{alpha: value})
    mixes = [draw_mix(Draw(0, 1), index, 4, augmentation, 32) for index in range(count)]
    assert all(mix is not None for mix in mixes)
    return np.array([mix.share for mix in mixes if mix is not None])


def test_mixup_is_the_weighted_mean_with_the_larger_share_its_own() -> None:
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mix = draw_mix(Draw(2, 5), 3, 6, Augmentation(pad=0, flip=False, mixup=1.0), 8)
    assert mix is not None and mix.box is None
    assert sorted(mix.partner_B.tolist()) == list(range(6))
    assert torch.allclose(mix.mixed(images), mix.share * images + (1 - mix.share) * images[mix.partner_B])
    again = draw_mix(Draw(2, 5), 3, 6, Augmentation(pad=0, flip=False, mixup=1.0), 8)
    other = draw_mix(Draw(2, 5), 4, 6, Augmentation(pad=0, flip=False, mixup=1.0), 8)
    assert again is not None and other is not None
    assert again.share == mix.share != other.share
    shares = own_shares("mixup", 1.0)
    assert shares.min() >= 0.5
    assert shares.mean() == pytest.approx(0.75, abs=0.03)  # uniform on 0.5..1
    # Beta(0.2, 0.2): E[max(x, 1-x)] by simulation of the definition
    sample = np.random.default_rng(0).beta(0.2, 0.2, 100_000)
    assert own_shares("mixup", 0.2).mean() == pytest.approx(np.maximum(sample, 1 - sample).mean(), abs=0.03)


def test_cutmix_shows_exactly_its_share_of_the_own_image() -> None:
    own, alpha = torch.zeros(5, 1, 32, 32), Augmentation(pad=0, flip=False, cutmix=1.0)
    roles = set()
    for index in range(60):
        mix = draw_mix(Draw(0, 1), index, 5, alpha, 32)
        assert mix is not None and mix.box is not None
        images = own + torch.arange(5.0)[:, None, None, None]
        mixed = mix.mixed(images)
        for row in range(5):
            partner = int(mix.partner_B[row])
            mine = (mixed[row] == row).double().mean()
            assert float(mine) == pytest.approx(1.0 if partner == row else mix.share)
            assert set(mixed[row].unique().tolist()) <= {float(row), float(partner)}
        assert 0.5 <= mix.share <= 1
        roles.add(mix.box_is_own)
        assert torch.equal(images[:, 0, 0, 0], torch.arange(5.0))  # the batch itself is untouched
    assert roles == {True, False}


def test_with_both_alphas_each_batch_draws_one() -> None:
    both = Augmentation(pad=0, flip=False, mixup=0.5, cutmix=0.5)
    boxes = [mix.box is None for i in range(200) if (mix := draw_mix(Draw(0, 1), i, 3, both, 8)) is not None]
    assert len(boxes) == 200 and 70 < sum(boxes) < 130
    assert draw_mix(Draw(0, 1), 0, 3, PAD4, 8) is None


def test_presets_and_parts_resolve_to_whole_augmentations() -> None:
    adapter = TypeAdapter(AugmentationSettings)

    def resolved(value: Any) -> Augmentation:
        return adapter.validate_python(value).resolved(PAD4, 32, "data.augmentation")

    assert resolved("weak") == resolved({}) == PAD4
    published = Augmentation(
        pad=4, flip=True, randaugment=RandAugment(ops=2, magnitude=None), cutout=16, cutout_random=True
    )
    assert resolved("strong") == strong_augmentation(PAD4, 32) == published
    assert resolved({"preset": "strong", "cutout": 0}) == published.model_copy(
        update={"cutout": 0, "cutout_random": False}
    )
    assert resolved({"pad": 0, "flip": False}) == Augmentation(pad=0, flip=False)
    assert resolved({"randaugment": {"ops": 0}}).crops_only
    assert resolved({"random_resized_crop": {}}).pad == 0
    assert resolved(Augmentation(pad=1, flip=False)) == Augmentation(pad=1, flip=False)
    for value in ("strong", {"mixup": 0.2}, {"cutmix": 1}, {"cutout": 4}, {"random_resized_crop": {}}):
        whole = resolved(value)
        assert not whole.crops_only
        assert whole.mixes == (value in ({"mixup": 0.2}, {"cutmix": 1}))
    again = adapter.validate_python(adapter.validate_python({"preset": "strong", "pad": 2}).model_dump())
    assert again == adapter.validate_python({"preset": "strong", "pad": 2})


def test_parts_of_rethinkkd_resolve_and_leave_the_presets_alone() -> None:
    """Weak and strong augmentation of Guo et al. (arXiv 2405.00739), as parts."""

    def resolved(value: Any) -> Augmentation:
        return TypeAdapter(AugmentationSettings).validate_python(value).resolved(PAD4, 32, "training.augmentation")

    weak = resolved({"random_resized_crop": {"scale": [0.2, 1.0]}, "rotation": 15})
    assert (weak.pad, weak.flip, weak.rotation) == (0, True, 15.0)
    assert weak.random_resized_crop == RandomResizedCrop(scale=(0.2, 1.0))
    strong = resolved({"autoaugment": "cifar10", "cutout": 16})
    assert strong == Augmentation(pad=4, flip=True, autoaugment="cifar10", cutout=16)
    assert not weak.crops_only and not strong.crops_only
    assert resolved({"rotation": 0}).crops_only
    assert resolved({"preset": "strong", "autoaugment": "cifar10"}).randaugment is None, "in its place"
    assert resolved("strong").autoaugment is None


def test_settings_without_the_later_parts_are_written_as_they_were() -> None:
    names = "preset pad flip random_resized_crop randaugment cutout cutout_random mixup cutmix"
    assert list(AugmentationSettings(preset="strong").model_dump(mode="json")) == names.split()
    assert AugmentationSettings(rotation=15).model_dump(mode="json")["rotation"] == 15.0
    short = [AugmentationSettings(**given).short() for given in ({}, {"preset": "strong"}, {"cutout": 4, "flip": None})]
    assert short == ["weak", "strong", {"cutout": 4}]
    assert AugmentationSettings(preset="strong", pad=2).short() == {"preset": "strong", "pad": 2}


def test_facts_of_a_plain_augmentation_are_what_they_were() -> None:
    assert list(PAD4.facts().items()) == [("pad", 4), ("flip", True)]
    assert Augmentation(pad=4, flip=True, mixup=0.2, randaugment=RandAugment()).facts() == {
        "pad": 4,
        "flip": True,
        "randaugment": {"ops": 2, "magnitude": None},
        "mixup": 0.2,
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("medium", "preset\n  Input should be 'weak' or 'strong'"),
        ({"pad": 2, "random_resized_crop": {}}, r"pad \(2\) and random_resized_crop exclude each other"),
        ({"random_resized_crop": {"scale": [0.5, 0.1]}}, r"scale must be \[low, high\] .* got \[0.5, 0.1\]"),
        ({"random_resized_crop": {"ratio": [0, 1]}}, r"ratio must be \[low, high\] .* got \[0.0, 1.0\]"),
        ({"randaugment": {"magnitude": 31}}, "less than or equal to 30"),
        ({"mixup": -1}, "greater than or equal to 0"),
        ({"mixup": math.inf}, "finite"),
        ({"rotation": 181}, "less than or equal to 180"),
        ({"rotation": -1}, "greater than or equal to 0"),
        ({"autoaugment": "cifar100"}, "Input should be 'cifar10', 'imagenet' or 'svhn'"),
        ({"autoaugment": "cifar10", "randaugment": {}}, r"autoaugment \(cifar10\) and randaugment exclude each other"),
        ({"cutut": 3}, "Extra inputs are not permitted"),
    ],
)
def test_bad_augmentations_are_refused(value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(AugmentationSettings).validate_python(value)


def test_a_cutout_larger_than_the_image_is_refused() -> None:
    with pytest.raises(DataError, match=r"data.strong.cutout is 40, the images have 32 pixels \(allowed: 0..32\)"):
        AugmentationSettings(cutout=40).resolved(PAD4, 32, "data.strong")


@pytest.mark.gpu
def test_augment_on_the_gpu_equals_the_cpu() -> None:
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    ids, mean, std = torch.arange(64), torch.full((3,), 0.5), torch.full((3,), 0.25)
    drawn = crops(0, 1, ids, PAD4)
    here = augment(images, ids, drawn, PAD4, mean, std)
    ids_there = ids.cuda()
    drawn_there = crops(0, 1, ids_there, PAD4)
    there = augment(images.cuda(), ids_there, drawn_there, PAD4, mean.cuda(), std.cuda())
    assert there.is_cuda
    assert torch.allclose(there.cpu(), here, atol=1e-6)
