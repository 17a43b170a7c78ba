"""Contrastive representation distillation (Tian et al., ICLR 2020, arXiv 1910.10699).

Shapes: B batch, N training images, E embedding width, J negatives, S scores per image (1 + J, the image's own first),
2 student and teacher.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from akdtune.errors import AkdtuneError, DataError
from akdtune.methods import Method, MethodContext
from akdtune.methods._maps import full_precision, unit
from akdtune.registry import ComponentSettings, IdleAtZero, register
from akdtune.signals import UNLABELLED, Batch, Signals, Target, Terms

BANKS_MIB = 2048
"""Both memory banks together take at most so much; those of ImageNet take 1,251."""

EPSILON = 1e-7
"""Added to both denominators of the loss, as published."""


SOFTPLUS_THRESHOLD = 40.0
"""softplus(x) = x beyond it: exact in float64, and far below what exp can hold in float32."""


@full_precision
def log_scores_BS(embedding_BE: Tensor, bank_NE: Tensor, index_BS: Tensor, temperature: float) -> Tensor:
    """embedding . bank row / temperature for the listed rows of a memory bank, [B, S]: logs of the paper's scores."""
    return (embedding_BE @ bank_NE.T).gather(1, index_BS).div_(temperature)


def log_partition(log_scores_BS: Tensor, num_samples: int) -> Tensor:
    """Log of Z = mean score times N."""
    mean = torch.logsumexp(log_scores_BS.flatten(), dim=0) - math.log(log_scores_BS.numel())
    return mean + math.log(num_samples)


@full_precision
def contrastive_loss(
    embedding_BE: Tensor, bank_NE: Tensor, index_BS: Tensor, log_partition: Tensor, temperature: float
) -> Tensor:
    """Noise-contrastive loss of each image's own score (column 0) against its negatives.

    -(1/B) [sum log(P+ / (P+ + J/N)) + sum log((J/N) / (P- + J/N))] with P = score / Z, from logs alone, so that no
    temperature overflows.

    Args:
        embedding_BE: of length 1.
        bank_NE: embeddings of all training images; gets no gradient.
        index_BS: rows of the bank, the image's own first.
        log_partition: log of the constant Z that makes scores probabilities over the training set.
        temperature: of the scores.
    """
    loss: Tensor = _Contrast.apply(embedding_BE, bank_NE, index_BS, log_partition, temperature)
    return loss


class _Contrast(torch.autograd.Function):
    """The loss with its gradient, which is known once the scores are: d loss / d log score = P / (P + J/N) - [own].

    One matrix product over the whole bank and a gather of numbers, instead of a gather of S rows per image: the same
    scores and gradients at a fraction of the memory traffic. All of it happens in two buffers, [B, N] and [B, S], and
    a step keeps no more than the gradient of the embedding.
    """

    @staticmethod
    @override
    def forward(
        ctx: Any, embedding_BE: Tensor, bank_NE: Tensor, index_BS: Tensor, log_partition: Tensor, temperature: float
    ) -> Tensor:
        images, scores = index_BS.shape
        noise = (scores - 1) / len(bank_NE)
        least = math.log1p(EPSILON / noise)
        of_bank_BN = embedding_BE @ bank_NE.T
        log_odds_BS = of_bank_BN.gather(1, index_BS).div_(temperature).sub_(log_partition + (math.log(noise) + least))
        # log(P+ / (P+ + e)) + log(e / (P- + e)) + ... with all denominators in one sum: log(odds + 1 + epsilon / noise)
        above_BS = nn.functional.softplus(log_odds_BS, threshold=SOFTPLUS_THRESHOLD)
        loss = (above_BS.sum(dim=1) - log_odds_BS[:, 0]).mean() + least * (scores - 1)
        if ctx.needs_input_grad[0]:
            pull_BS = log_odds_BS.sigmoid_()
            pull_BS[:, 0] -= 1
            pull_BN = of_bank_BN.zero_().scatter_add_(1, index_BS, pull_BS)
            ctx.save_for_backward((pull_BN @ bank_NE).div_(images * temperature))
        return loss

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient * ctx.saved_tensors[0], None, None, None, None


class _Step(NamedTuple):
    """What a training step holds between its first target and its end."""

    batch: Batch
    index_BS: Tensor
    embedded_2BE: Tensor


@register("crd")
class CRD(Method):
    """Pulls a student embedding towards the teacher's embedding of the same image, away from other classes' images.

    Memory banks hold one student and one teacher embedding per training image; they are indexed by the image's
    position in this trial's training subset. An image without a label is nobody's negative. Consumes an ensemble as the
    weighted sum of its members' features; the embedding is scaled to length 1, so that the sum of the weights does not
    matter.

    Terms:
        crd: loss of the student's embedding against the teacher's bank plus loss of the teacher's embedding against
            the student's bank.

    Differs: works on logs of scores throughout, where the published code exponentiates; equal numbers, but finite at
        any temperature; negatives are drawn anew per step, independently for each image, once for all targets of a sum
        over views (on the CPU by numpy, seeded from the trial's generator; elsewhere on the device);
        the banks are updated after the optimiser step, once, with the first target's embeddings (TeKAP's code updates
        them a second time with the noisy ones); K shrinks to the number of images outside the largest class where there
        are fewer than 16384 of them (the published code then draws with replacement, as `with_replacement` does);
        positives are the image itself (the published `relax` draws them from its class).

    Example:
        >>> crd = CRD.alone(num_classes=10, train_labels_N=torch.arange(500) % 10)
        >>> student, teacher = Signals.random(8), Signals.random(8)
        >>> loss = crd.terms(student, Target.of(teacher), Batch.of(torch.arange(8)))["crd"]
    """

    source = "Tian et al., ICLR 2020, arXiv 1910.10699"
    consumes = "pooled"
    reads_labels = True

    class Settings(ComponentSettings):
        """Settings of `crd`; the defaults are those of RepDistiller."""

        idle_at_zero: ClassVar[IdleAtZero] = {("weight",): ("temperature", "momentum")}

        weight: NonNegativeFloat = Field(0.8, description="weight of the term")
        embedding_dim: PositiveInt = Field(128, le=65_536, description="width of the shared embedding")
        temperature: PositiveFloat = Field(0.07, description="temperature of the scores")
        momentum: float = Field(0.5, ge=0, lt=1, description="share of the old row kept when the banks are updated")
        negatives: Literal["auto", "with_replacement"] = Field(
            "auto",
            description="auto: min(num_negatives, other-class images) without replacement; with_replacement: exactly"
            " num_negatives, however few images there are",
        )
        num_negatives: PositiveInt = Field(16384, description="negatives per image (K in the paper)")

    student_bank_NE: Tensor
    teacher_bank_NE: Tensor
    log_partitions_2: Tensor

    def __init__(self, settings: CRD.Settings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        labels_N = context.train_labels_N
        _refuse_large_banks(len(labels_N), settings.embedding_dim)
        labelled_N = labels_N != UNLABELLED
        counts_K = torch.bincount(labels_N[labelled_N], minlength=context.num_classes)
        self.num_samples = int(counts_K.sum())
        self.num_negatives = resolved_negatives(settings, counts_K.tolist())
        width = settings.embedding_dim
        self.embed_student = _linear(context.student_dim, width, context.generator).to(context.device)
        self.embed_teacher = _linear(context.teacher_dim, width, context.generator).to(context.device)
        self.register_buffer("student_bank_NE", _bank(len(labels_N), width, context.generator).to(context.device))
        self.register_buffer("teacher_bank_NE", _bank(len(labels_N), width, context.generator).to(context.device))
        # log Z of the student's and of the teacher's scores; infinite until the first batch sets them for good
        self.register_buffer("log_partitions_2", torch.full((2,), math.inf, device=context.device))
        self._labels_N, self._unlabelled_N = labels_N, ~labelled_N
        self.draws_on_host = labels_N.device.type == "cpu"  # elsewhere a step would wait for the device
        self._by_class_N = torch.argsort(labels_N, stable=True)[len(labels_N) - self.num_samples :]
        self._class_counts_K = counts_K
        self._class_starts_K = counts_K.cumsum(0) - counts_K
        self._step: _Step | None = None
        self._known_log_partitions_2: Tensor | None = None  # so that only the first step after a start looks for them
        self.register_load_state_dict_post_hook(_forget_partitions)  # type: ignore[no-untyped-call]

    @override
    def terms(self, student: Signals, target: Target, batch: Batch) -> Terms:
        mapped = self._embed(self.embed_student, student.pooled_BC), self._embed(self.embed_teacher, target.pooled_BC)
        embedded_2BE = unit(torch.stack(mapped), dim=-1)
        if self._step is None or self._step.batch is not batch:
            index_BS = torch.cat([batch.positions_B[:, None], self.negatives_BJ(batch)], dim=1)
            self._step = _Step(batch, index_BS, embedded_2BE.detach())
        banks = (self.teacher_bank_NE, self.student_bank_NE)  # each side is compared with the other's bank
        index_BS, temperature = self._step.index_BS, self.settings.temperature
        if self._known_log_partitions_2 is None:
            self._known_log_partitions_2 = self._set_partitions(embedded_2BE, banks, index_BS)
        sides = zip(embedded_2BE, banks, self._known_log_partitions_2, strict=True)
        losses = [contrastive_loss(own_BE, bank_NE, index_BS, log_z, temperature) for own_BE, bank_NE, log_z in sides]
        return {"crd": losses[0] + losses[1]}

    @override
    def weights(self, epoch: int) -> Mapping[str, float]:
        return {"crd": self.settings.weight}

    @override
    @torch.no_grad()
    def after_step(self) -> None:
        """Moves the bank rows of the batch towards its embeddings and scales them to length 1."""
        if self._step is None:
            return
        positions_B, banks = self._step.batch.positions_B, (self.student_bank_NE, self.teacher_bank_NE)
        old_2BE = torch.stack([bank_NE[positions_B] for bank_NE in banks])
        mixed_2BE = torch.lerp(self._step.embedded_2BE, old_2BE, self.settings.momentum)
        for bank_NE, rows_BE in zip(banks, nn.functional.normalize(mixed_2BE, dim=-1), strict=True):
            bank_NE.index_copy_(0, positions_B, rows_BE)
        self._step = None

    @torch.no_grad()
    def negatives_BJ(self, batch: Batch) -> Tensor:
        """Positions of J images of other classes for each image of the batch, [B, J], on the device.

        Without replacement every set of J is equally likely, and those of different images are independent.
        """
        if self.settings.negatives == "auto":
            return self._thinned_BJ(batch) if self.draws_on_host else self._least_keyed_BJ(batch)
        labels_B1 = self._labels_N[batch.positions_B, None]
        own_B1 = self._class_counts_K[labels_B1]
        shape = (len(batch.positions_B), self.num_negatives)
        draws_BJ = torch.rand(shape, generator=batch.generator, device=own_B1.device, dtype=torch.float64)
        ranks_BJ = (draws_BJ * (self.num_samples - own_B1)).long()
        skipped_BJ = ranks_BJ + own_B1 * (ranks_BJ >= self._class_starts_K[labels_B1])  # jump over the own class
        return self._by_class_N[skipped_BJ]

    def _thinned_BJ(self, batch: Batch) -> Tensor:
        """Without replacement, by a coin for each other image; what comes up beyond J is taken away at random.

        Sets of as many coins are equally likely, and so is what is left of them: every set of J. They come sorted, so
        that gathering their scores takes half the time.
        """
        seed = torch.randint(2**63 - 1, (1,), generator=batch.generator).item()
        source = np.random.SFC64(int(seed))
        generator, labels_N = np.random.Generator(source), self._labels_N.numpy().astype(np.int32)
        own_B = self._class_counts_K[self._labels_N[batch.positions_B]].tolist()
        negatives_BJ = np.empty((len(own_B), self.num_negatives), np.int64)
        for own, position, negatives_J in zip(own_B, batch.positions_B.tolist(), negatives_BJ, strict=True):
            is_other_N = (labels_N != labels_N[position]) & (labels_N != UNLABELLED)
            limit = _coin_limit(self.num_samples - own, self.num_negatives)
            taken: list[int] | np.ndarray[Any, Any] = []
            while len(taken) < self.num_negatives:
                coins_N = source.random_raw(-(-len(labels_N) // 8)).view(np.uint8)[: len(labels_N)]
                taken = np.flatnonzero((coins_N <= limit) & is_other_N)
            stays = np.ones(len(taken), bool)
            stays[generator.choice(len(taken), len(taken) - self.num_negatives, replace=False, shuffle=False)] = False
            negatives_J[:] = taken[stays]
        return torch.from_numpy(negatives_BJ)

    def _least_keyed_BJ(self, batch: Batch) -> Tensor:
        """Without replacement, by the smallest of random keys: nothing waits for the device.

        Keys have 53 bits, as equal ones would be chosen by their place.
        """
        shape = len(batch.positions_B), len(self._labels_N)
        keys_BN = torch.rand(shape, generator=batch.generator, device=self._labels_N.device, dtype=torch.float64)
        keys_BN.masked_fill_((self._labels_N == self._labels_N[batch.positions_B, None]) | self._unlabelled_N, 2.0)
        return keys_BN.topk(self.num_negatives, dim=1, largest=False, sorted=False).indices

    @staticmethod
    def _embed(layer: nn.Linear, pooled_BC: Tensor) -> Tensor:
        """Embedding before its scaling to length 1, [B, E], in single precision: a temperature magnifies its errors."""
        with torch.autocast(pooled_BC.device.type, enabled=False):
            return layer(pooled_BC.to(layer.weight.dtype))  # type: ignore[no-any-return]

    @torch.no_grad()
    def _set_partitions(self, embedded_2BE: Tensor, banks: Sequence[Tensor], index_BS: Tensor) -> Tensor:
        """Sets what was not set before; returns a copy, as backward must not see a later load_state_dict."""
        log_scores = (
            log_scores_BS(own_BE, bank_NE, index_BS, self.settings.temperature)
            for own_BE, bank_NE in zip(embedded_2BE, banks, strict=True)
        )
        fresh_2 = torch.stack([log_partition(of_side_BS, self.num_samples) for of_side_BS in log_scores])
        self.log_partitions_2.copy_(torch.where(self.log_partitions_2.isinf(), fresh_2, self.log_partitions_2))
        return self.log_partitions_2.clone()

    @override
    @classmethod
    def draws(cls, settings: ComponentSettings) -> bool:
        """The negatives."""
        return True

    @override
    @classmethod
    def facts(cls, settings: ComponentSettings, class_counts_K: list[int]) -> dict[str, Any]:
        """The resolved number of negatives per image."""
        assert isinstance(settings, CRD.Settings)
        return {"negatives": resolved_negatives(settings, class_counts_K)}


def resolved_negatives(settings: CRD.Settings, class_counts_K: list[int]) -> int:
    """J, the same for every image: bounded by the images outside the largest class unless drawn with replacement.

    Raises:
        DataError: when all images are of one class.
    """
    others = sum(class_counts_K) - max(class_counts_K)
    if others < 1:
        raise DataError("crd needs training images of at least two classes: there is nothing to contrast with")
    return settings.num_negatives if settings.negatives == "with_replacement" else min(settings.num_negatives, others)


@lru_cache(maxsize=1024)
def _coin_limit(images: int, wanted: int) -> int:
    """A byte up to which so many of so many random ones lie, but for one time in a thousand; at most 255: all."""
    for limit in range(255):
        share = (limit + 1) / 256
        if images * share - 3 * math.sqrt(images * share * (1 - share)) >= wanted:
            return limit
    return 255


def _forget_partitions(method: nn.Module, _: object) -> None:
    """After load_state_dict."""
    assert isinstance(method, CRD)
    method._known_log_partitions_2 = None


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):  # torch's own draws are overwritten; its skip_init loads sympy
        layer = nn.Linear(inputs, outputs)
    bound = inputs**-0.5  # torch's default, drawn from the trial's generator
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def _refuse_large_banks(rows: int, width: int) -> None:
    """Banks of that many rows, before they are made.

    Raises:
        AkdtuneError: for more than fits.
    """
    mib = 2 * rows * width * 4 / 2**20
    if mib > BANKS_MIB:
        raise AkdtuneError(
            f"its banks of {rows:,} rows would take {mib:,.0f} MiB (allowed: {BANKS_MIB:,}): lower "
            f"method.crd.embedding_dim, now {width}, or train on less"
        )


def _bank(rows: int, width: int, generator: torch.Generator) -> Tensor:
    bound = (width / 3) ** -0.5  # rows of expected length 1
    return torch.empty(rows, width).uniform_(-bound, bound, generator=generator)
