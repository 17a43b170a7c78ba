"""Random-control distillation: the noise, what it depends on, and what it replaces."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from akdtune import randomness
from akdtune.randomness import Stream, random_words
from akdtune.signals import Batch, Signals, Target
from akdtune.views.random import STREAM, Random, RandomSettings, fixed_uniforms, philox4x32
from tests import small_world
from tests.small_world import CLASSES, STUDENT_DIM, TEACHER_DIM, batch, signals


def noise(**settings: Any) -> Random:
    built = small_world.views("random", **settings)
    assert isinstance(built, Random)
    return built


def target(augmenter: Random, now: Batch, teacher: Signals | None = None) -> Target:
    teaching = augmenter.teach(teacher or signals(1, TEACHER_DIM), signals(2, STUDENT_DIM), now)
    (logits,), (pooled,) = teaching.logit_targets, teaching.pooled_targets
    assert (logits.weight, pooled.weight) == (1.0, 1.0)
    assert logits.target is pooled.target
    assert not teaching.penalties
    return logits.target


def test_words_are_those_of_the_augmentations_generator() -> None:
    counter_4N = np.random.default_rng(0).integers(0, 2**32, size=(4, 200), dtype=np.uint64)
    counter_4N[:, 0] = 2**32 - 1
    key = (0xA4093822, 0xFFFFFFFF)
    expected_4N = randomness.philox4x32(counter_4N, key).astype(np.int64)
    assert torch.equal(philox4x32(torch.from_numpy(counter_4N.astype(np.int64)), key), torch.from_numpy(expected_4N))


def test_fixed_numbers_are_those_of_seed_sample_block_and_stream() -> None:
    ids_B = torch.tensor([0, 7, 2**32 + 7, 59_999])
    seed = 2**61 + 12345
    found_BR = fixed_uniforms(seed, ids_B, 10)
    assert found_BR.shape == (4, 10)
    for block in range(3):
        words_4B = random_words(seed, block, ids_B.numpy(), STREAM)  # type: ignore[arg-type]
        uniform_B4 = torch.from_numpy((words_4B >> np.uint64(8)).astype(np.float64).T / 2**24).float()
        assert torch.equal(found_BR[:, 4 * block : 4 * block + 4], uniform_B4[:, : 10 - 4 * block])
    assert STREAM not in list(Stream)


@pytest.mark.parametrize("resample", ["never", "step"])
@pytest.mark.parametrize(("distribution", "mean", "deviation"), [("uniform", 0.5, 12**-0.5), ("gaussian", 0.0, 1.0)])
def test_noise_has_its_distribution_and_scale(distribution: str, mean: float, deviation: float, resample: str) -> None:
    size = 3000
    teacher = Signals(torch.zeros(size, CLASSES), torch.zeros(size, TEACHER_DIM))
    ids_B = torch.arange(size)
    now = Batch(ids_B % CLASSES, ids_B, ids_B, 1, torch.Generator().manual_seed(0))
    mixture = target(noise(distribution=distribution, resample=resample, scale=2.0, pooled_scale=3.0), now, teacher)
    for drawn, scale in ((mixture.logits_BMK, 2.0), (mixture.pooled_BMC, 3.0)):
        assert drawn.shape[1] == 1
        assert float(drawn.mean()) == pytest.approx(scale * mean, abs=0.05)
        assert float(drawn.std()) == pytest.approx(scale * deviation, rel=0.02)
        assert torch.isfinite(drawn).all()
    if distribution == "gaussian":
        assert float((mixture.pooled_BMC.abs() < 3.0).double().mean()) == pytest.approx(math.erf(2**-0.5), abs=0.01)
    both_RR = torch.corrcoef(torch.cat([mixture.logits_BMK[:, 0], mixture.pooled_BMC[:, 0]], dim=1).T)
    assert float((both_RR - torch.eye(len(both_RR))).abs().max()) < 0.09


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_noise_that_is_never_resampled_belongs_to_the_image(distribution: str) -> None:
    augmenter, now = noise(resample="never", distribution=distribution), batch()
    order = torch.randperm(9)
    turned = replace(batch(epoch=7, seed=99), sample_ids_B=now.sample_ids_B[order], labels_B=now.labels_B[order])
    one, other = target(augmenter, now), target(augmenter, turned, signals(77, TEACHER_DIM))
    assert torch.equal(one.logits_BMK[order], other.logits_BMK)
    assert torch.equal(one.pooled_BMC[order], other.pooled_BMC)
    assert torch.equal(target(noise(resample="never", distribution=distribution), now).logits_BMK, one.logits_BMK)
    assert len(one.logits_BMK[:, 0, 0].unique()) == 9


def test_the_seed_of_fixed_noise_is_the_trials_own_or_a_set_one() -> None:
    def first(seed: int | None, init: int) -> float:
        settings = RandomSettings(resample="never", seed=seed)
        return float(target(Random(settings, small_world.view_context(seed=init)), batch()).logits_BMK[0, 0, 0])

    assert first(None, 1) != first(None, 2)
    assert first(3, 1) == first(3, 2) != first(4, 1)


def test_fresh_noise_comes_from_the_batch_generator() -> None:
    augmenter, now = noise(resample="step"), batch()
    first, second = target(augmenter, now).logits_BMK, target(augmenter, now).logits_BMK
    assert torch.equal(first, target(augmenter, batch()).logits_BMK)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("resample", ["never", "step"])
def test_nothing_of_the_teacher_is_left(resample: str) -> None:
    augmenter = noise(resample=resample)
    teacher, other = signals(1, TEACHER_DIM, requires_grad=True), signals(50, TEACHER_DIM)
    one = target(augmenter, batch(), teacher)
    assert torch.equal(one.logits_BMK, target(augmenter, batch(), other).logits_BMK)
    assert torch.equal(one.pooled_BMC, target(augmenter, batch(), other).pooled_BMC)
    assert not one.logits_BMK.requires_grad
    assert not list(augmenter.parameters())
    assert not augmenter.state_dict()


def test_evaluation_sees_noise_of_the_same_distribution() -> None:
    augmenter, teacher = noise(), signals(1, TEACHER_DIM)
    views = augmenter.views(teacher, batch().generator)
    assert views.num_views == 1
    evaluated = augmenter.evaluation_target(teacher, views)
    assert torch.equal(evaluated.logits_BMK, target(augmenter, batch()).logits_BMK)
    assert augmenter.stochastic


@pytest.mark.parametrize("given", [{"distribution": "laplace"}, {"scale": 0}, {"resample": "epoch"}, {"seed": -1}])
def test_settings_that_cannot_work_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RandomSettings(**given)
