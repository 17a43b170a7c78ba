"""Random-control distillation: noise in the teacher's place (Mason-Williams et al., arXiv 2510.12615).

Shapes: B batch, K classes, C feature width, R = K + C numbers an image.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor
from typing_extensions import override

from akdtune.registry import ComponentSettings, register
from akdtune.signals import Batch, Signals, Target, Teaching, Views, WeightedTarget
from akdtune.views import ViewAugmenter, ViewContext

STREAM = 64
"""What these draws are for, as a number that no `akdtune.randomness.Stream` has."""

_LOW = 0xFFFFFFFF


class RandomSettings(ComponentSettings):
    """Settings of `random`."""

    distribution: Literal["uniform", "gaussian"] = Field("uniform", description="of the noise: U(0, 1) or N(0, 1)")
    resample: Literal["never", "step"] = Field(
        "step", description="never: each image keeps its noise for the whole trial; step: fresh noise in each step"
    )
    scale: PositiveFloat = Field(1.0, description="factor of the noise that stands for logits")
    pooled_scale: PositiveFloat = Field(1.0, description="factor of the noise that stands for the pooled feature")
    seed: NonNegativeInt | None = Field(
        None, description="of the noise that is never resampled; null: the trial's own, so that each has another"
    )

    @override
    def idle(self) -> dict[str, str]:
        """The noise's seed where nothing is drawn from it."""
        return super().idle() | ({"seed": "resample is step"} if self.resample == "step" else {})


@register("random")
class Random(ViewAugmenter):
    """Noise instead of the teacher, in the same losses: what is left of their effect is not the teacher's knowledge.

    logits = scale * noise, pooled feature = pooled_scale * noise of the teacher's width. Where a method reads maps it
    is still given the teacher's. Noise that is never resampled belongs to an image, whatever is done to it. Images
    outside the training set (evaluation) have none of their own: there it is drawn from the same distribution.

    Differs: whether the paper's noise was fixed for an image or fresh in each step, and its treatment of features, is
        not known; both are settings here.

    Example:
        >>> views = Random.alone(num_classes=10, teacher_dim=64, distribution="uniform")
        >>> teacher, student = Signals.random(8), Signals.random(8)
        >>> teaching = views.teach(teacher, student, Batch.of(torch.arange(8)))
    """

    Settings = RandomSettings
    source = "Mason-Williams et al., arXiv 2510.12615"
    stochastic = True

    def __init__(self, settings: RandomSettings, context: ViewContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        drawn = int(torch.randint(2**62, (1,), generator=context.generator))
        self.seed = drawn if settings.seed is None else settings.seed

    @override
    @classmethod
    def draws(cls, settings: ComponentSettings) -> bool:
        """The noise where it is drawn anew in each step."""
        assert isinstance(settings, RandomSettings)
        return settings.resample == "step"

    @override
    def views(self, teacher: Signals, generator: torch.Generator, student: Signals | None = None) -> Views:
        """One view: the noise that replaces the teacher, drawn anew at every call."""
        draw = torch.rand if self.settings.distribution == "uniform" else torch.randn
        logits_BK, pooled_BC = teacher.logits_BK, teacher.pooled_BC
        noise = [
            draw(like_BR.shape, generator=generator, device=like_BR.device, dtype=like_BR.dtype)
            for like_BR in (logits_BK, pooled_BC)
        ]
        return self._scaled(*noise)

    @override
    def teach(self, teacher: Signals, student: Signals, batch: Batch) -> Teaching:
        """The noise as the only target."""
        if self.settings.resample == "step":
            views = self.views(teacher, batch.generator)
        else:
            views = self.fixed(batch.sample_ids_B, teacher)
        only = (WeightedTarget(1.0, self.evaluation_target(teacher, views)),)
        return Teaching(only, only, {})

    @override
    def evaluation_target(self, teacher: Signals, views: Views) -> Target:
        """The noise alone."""
        return Target(views.logits_BVK, views.pooled_BVC, views.logits_BVK.new_ones(1))

    def fixed(self, sample_ids_B: Tensor, teacher: Signals) -> Views:
        """The noise that belongs to these images, of the teacher's shapes: a pure function of seed and sample id."""
        classes, width = teacher.logits_BK.shape[1], teacher.pooled_BC.shape[1]
        uniform_BR = fixed_uniforms(self.seed, sample_ids_B, 2 * (classes + width))
        first_BR, second_BR = uniform_BR.chunk(2, dim=1)
        noise_BR = first_BR if self.settings.distribution == "uniform" else _gaussian(first_BR, second_BR)
        noise_BR = noise_BR.to(teacher.logits_BK.dtype)
        return self._scaled(noise_BR[:, :classes], noise_BR[:, classes:].to(teacher.pooled_BC.dtype))

    def _scaled(self, logits_BK: Tensor, pooled_BC: Tensor) -> Views:
        scaled_BK, scaled_BC = self.settings.scale * logits_BK, self.settings.pooled_scale * pooled_BC
        return Views(scaled_BK.unsqueeze(1), scaled_BC.unsqueeze(1))


def fixed_uniforms(seed: int, sample_ids_B: Tensor, width: int) -> Tensor:
    """Uniform numbers in [0, 1) that depend on seed and sample id alone, [B, width] float32, on the ids' device."""
    blocks = math.ceil(width / 4)
    ids_BX = sample_ids_B.unsqueeze(1).expand(-1, blocks)
    block_BX = torch.arange(blocks, device=sample_ids_B.device).expand_as(ids_BX)
    counter_4BX = torch.stack([ids_BX & _LOW, ids_BX >> 32, block_BX, torch.full_like(ids_BX, STREAM)])
    words_4BX = philox4x32(counter_4BX, (seed & _LOW, seed >> 32 & _LOW))
    words_BR = words_4BX.permute(1, 2, 0).reshape(len(sample_ids_B), 4 * blocks)[:, :width]
    return (words_BR >> 8).to(torch.float32) * 2**-24


def philox4x32(counter_4x: Tensor, key: tuple[int, int]) -> Tensor:
    """`akdtune.randomness.philox4x32` in torch: the same words, without the ids leaving their device.

    Args:
        counter_4x: four 32-bit words in int64, [4, ...].
        key: two 32-bit words.
    """
    word0, word1, word2, word3 = counter_4x.unbind()
    key0, key1 = key
    for _ in range(10):
        product0, product1 = word0 * 0xD2511F53, word2 * 0xCD9E8D57  # modulo 2**64, whatever the sign bit says
        word0, word1, word2, word3 = (
            (product1 >> 32 & _LOW) ^ word1 ^ key0,
            product1 & _LOW,
            (product0 >> 32 & _LOW) ^ word3 ^ key1,
            product0 & _LOW,
        )
        key0, key1 = (key0 + 0x9E3779B9) & _LOW, (key1 + 0xBB67AE85) & _LOW
    return torch.stack([word0, word1, word2, word3])


def _gaussian(first_BR: Tensor, second_BR: Tensor) -> Tensor:
    """Normal numbers from two uniform ones each (Box and Muller, 1958)."""
    return (-2 * torch.log1p(-first_BR)).sqrt() * torch.cos(2 * math.pi * second_BR)
