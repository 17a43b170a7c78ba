"""Attention maps and their overlap: torch's bilinear places, values by hand, chance by permutation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from akdtune.reports.fidelity import maps
from akdtune.reports.fidelity.maps import attended, chance, iou, scaled, upsampled


@pytest.mark.parametrize(
    ("size", "wanted"), [((7, 7), (28, 28)), ((4, 6), (9, 32)), ((1, 1), (5, 5)), ((8, 8), (4, 3))]
)
def test_upsampling_is_torchs(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    maps_Nhw = np.random.default_rng(0).normal(size=(3, *size))
    torchs = torch.nn.functional.interpolate(
        torch.from_numpy(maps_Nhw)[:, None], wanted, mode="bilinear", align_corners=False
    )
    assert upsampled(maps_Nhw, *wanted) == pytest.approx(torchs[:, 0].numpy(), abs=1e-12)


def test_each_image_is_scaled_by_itself() -> None:
    maps_NHW = np.array([[[2.0, 4.0], [3.0, 2.5]], [[-1.0, -1.0], [-1.0, 0.0]]])
    assert scaled(maps_NHW).tolist() == [[[0, 1], [0.5, 0.25]], [[0, 0], [0, 1]]]


def test_above_the_threshold_and_not_at_it() -> None:
    maps_Nhw = np.array([[[0.0, 0.4], [0.41, 1.0]]])
    assert attended(maps_Nhw, 2, 2).tolist() == [[False, False, True, True]]
    assert attended(maps_Nhw, 2, 2, 0.3).tolist() == [[False, True, True, True]]


@pytest.mark.parametrize("value", [0.0, 7.5, np.inf, np.nan])
def test_a_map_that_does_not_vary_or_is_not_finite_attends_to_nothing(value: float) -> None:
    assert not attended(np.full((1, 3, 3), value), 6, 6).any()
    partly = np.zeros((1, 3, 3))
    partly[0, 0, 0] = value
    assert attended(partly, 6, 6).any() == (value == 7.5)


def test_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    maps_Nhw = np.random.default_rng(0).normal(size=(7, 4, 4)).astype(np.float16)
    whole_NP = attended(maps_Nhw, 8, 8)
    common = maps._variance(whole_NP, whole_NP[::-1])
    monkeypatch.setattr(maps, "_VALUES_AT_ONCE", 130)
    monkeypatch.setattr(maps, "_PIXELS_AT_ONCE", 10)
    assert (attended(maps_Nhw, 8, 8) == whole_NP).all()
    assert maps._variance(whole_NP, whole_NP[::-1]) == pytest.approx(common)


class TestIou:
    def test_with_itself_is_exactly_one(self) -> None:
        masks_NP = attended(np.random.default_rng(0).normal(size=(20, 7, 7)), 28, 28)
        assert iou(masks_NP, masks_NP) == 1
        assert iou(masks_NP, masks_NP, masks_NP) == 1

    def test_pools_pixels_of_all_images(self) -> None:
        """Image by image 1/1 and 1/3: pooled 2 of 4 pixels, not their mean of 2/3."""
        first_NP = np.array([[True, False, False], [True, True, False]])
        second_NP = np.array([[True, False, False], [False, True, True]])
        assert iou(first_NP, second_NP) == 0.5

    def test_of_three_is_all_over_any(self) -> None:
        three = [np.array([row], bool) for row in ([1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 1])]
        assert iou(*three) == 0.25

    def test_of_nothing_there_is_none(self) -> None:
        assert iou(np.zeros((2, 3), bool), np.zeros((2, 3), bool)) is None
        assert chance(np.zeros((2, 3), bool), np.zeros((2, 3), bool)) is None


def centred(images: int, seed: int) -> maps.Masks:
    """Masks of a network that looks at the centre, and beside it at what each image has for itself."""
    rng = np.random.default_rng(seed)
    bump = np.exp(-((np.arange(7) - 3) ** 2) / 4)
    return attended(np.outer(bump, bump) + 0.3 * rng.normal(size=(images, 7, 7)), 14, 14)


class TestChance:
    def test_is_what_permuted_images_give(self) -> None:
        first_NP, second_NP = centred(40, 0), centred(40, 1)
        rng = np.random.default_rng(2)
        drawn = [iou(first_NP, second_NP[rng.permutation(40)]) for _ in range(4000)]
        level = chance(first_NP, second_NP)
        assert level is not None
        assert level.value == pytest.approx(np.mean(drawn), abs=2e-3)
        assert (level.low, level.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=4e-3)

    def test_of_three_is_what_permuted_images_give(self) -> None:
        first_NP, second_NP, third_NP = (centred(40, seed) for seed in range(3))
        rng = np.random.default_rng(2)
        drawn = [iou(first_NP, second_NP[rng.permutation(40)], third_NP[rng.permutation(40)]) for _ in range(2000)]
        level = chance(first_NP, second_NP, third_NP)
        assert level is not None
        assert level.value == pytest.approx(np.mean(drawn), abs=2e-3)
        assert (level.low, level.high) == (None, None)

    def test_a_random_network_lies_at_it_and_the_same_network_far_above(self) -> None:
        """Nineteen of twenty networks that do not look at the image lie within it; both share the centre."""
        first_NP = centred(200, 0)
        inside = 0
        for seed in range(1, 101):
            random_NP = centred(200, seed)
            level, observed = chance(first_NP, random_NP), iou(first_NP, random_NP)
            assert level is not None and observed is not None
            assert observed > 0.3, "by the centre alone"
            inside += level.holds(observed)
        assert 88 <= inside <= 100
        level = chance(first_NP, first_NP)
        assert level is not None and level.high is not None and level.high < 0.7
        assert not level.holds(1.0)
