"""Inputs out of a student alone: images on which its BatchNorms see what they saw in training.

Shapes: B images, C channels, H, W, K classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from akdtune import networks
from akdtune.networks import Network
from akdtune.randomness import derived_seed
from akdtune.signals import InputSpec

STEPS, STEP_SIZE = 200, 0.1


@dataclass(frozen=True)
class Synthesis:
    """How inputs are synthesised.

    Attributes:
        count: how many, as one batch.
        steps: of Adam.
        step_size: of Adam.
        norm_weight: of the BatchNorm term beside the cross-entropy.
        seed: of first images and targets, which are the same for all students.
    """

    count: int = 100
    steps: int = STEPS
    step_size: float = STEP_SIZE
    norm_weight: float = 1.0
    seed: int = 0


def norms_of(network: nn.Module) -> list[_BatchNorm]:
    """The BatchNorms with running statistics; empty where nothing can be synthesised from."""
    return [
        module for module in network.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def synthesise(student: Network, inputs: InputSpec, how: Synthesis) -> Tensor:
    """Normalised images [B, C, H, W] that a student takes for mixtures of two classes, and its BatchNorms for data.

    min over images: mean_b sum_c w_bc CE(g(x_b), c) + norm_weight * sum over BatchNorms of |mean - running mean|^2 +
    |sd - running sd|^2, with mean and sd over the batch.

    Args:
        student: in eval mode, without gradients; has a BatchNorm.
        inputs: its images.
        how: settings.

    References:
        arXiv 2510.02302; Yin et al. (DeepInversion), CVPR 2020, arXiv 1912.08795 (the BatchNorm term).

    Differs: images are optimised themselves, where the paper trains a generator; number and size of steps, the weight
        of the terms and the distribution of mixtures (two classes, shares uniform) are our choice.
    """
    generator = torch.Generator().manual_seed(derived_seed("synthesised inputs", how.seed))
    shape = (how.count, inputs.channels, inputs.size, inputs.size)
    images_BCHW = torch.randn(shape, generator=generator).requires_grad_()
    targets_BK = mixtures(how.count, inputs.num_classes, generator)
    norms, layout = norms_of(student), networks.layout(student)
    optimizer = torch.optim.Adam([images_BCHW], lr=how.step_size)
    with _watched(norms) as mismatches:
        for _ in range(how.steps):
            mismatches.clear()
            logits_BK = student(images_BCHW.contiguous(memory_format=layout)).logits_BK
            cross_entropy = -(targets_BK * torch.log_softmax(logits_BK, dim=-1)).sum(dim=-1).mean()
            loss = cross_entropy + how.norm_weight * torch.stack(mismatches).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return images_BCHW.detach()


def mixtures(count: int, num_classes: int, generator: torch.Generator) -> Tensor:
    """Targets [B, K]: two classes each, drawn alike, the first with a share that is uniform in 0..1."""
    first_B, second_B = (torch.randint(num_classes, (count,), generator=generator) for _ in range(2))
    share_B1 = torch.rand((count, 1), generator=generator)
    both = (nn.functional.one_hot(classes_B, num_classes).float() for classes_B in (first_B, second_B))
    first_BK, second_BK = both
    return share_B1 * first_BK + (1 - share_B1) * second_BK


@contextlib.contextmanager
def _watched(norms: Sequence[_BatchNorm]) -> Iterator[list[Tensor]]:
    """Within it, each BatchNorm adds to a list how far what it gets is from what it saw in training."""
    mismatches: list[Tensor] = []

    def look(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        mismatches.append(mismatch(norm, given[0]))

    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    try:
        yield mismatches
    finally:
        for handle in handles:
            handle.remove()


def mismatch(norm: _BatchNorm, given_BCHW: Tensor) -> Tensor:
    """Squared distance of batch mean and batch sd from the running ones, summed over channels; a scalar."""
    assert norm.running_mean is not None and norm.running_var is not None
    over = [0, *range(2, given_BCHW.dim())]
    var_C, mean_C = torch.var_mean(given_BCHW, dim=over, unbiased=False)
    sd_C = (var_C + norm.eps).sqrt()
    known_sd_C = (norm.running_var + norm.eps).sqrt()
    return ((mean_C - norm.running_mean) ** 2).sum() + ((sd_C - known_sd_C) ** 2).sum()
