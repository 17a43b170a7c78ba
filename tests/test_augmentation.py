"""Counter-based draws, and crop + flip + normalise against torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from akdtune.augmentation import (
    Augmentation,
    Crops,
    Stream,
    augment,
    crops,
    epoch_order,
    philox4x32,
    random_words,
    variant_crops,
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
    for one, other in zip(of_all, of_some, strict=True):
        assert torch.equal(one[some], other)
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
