"""CRD: scores in log space, negatives, partition constants, memory banks, checkpoints."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from akdtune.errors import DataError
from akdtune.methods.crd import CRD, contrastive_loss, log_partition, log_scores_BS, resolved_negatives
from akdtune.signals import Batch, Signals, Target
from tests import small_world
from tests.small_world import CLASSES, IMAGES, LABELS_N, STUDENT_DIM, TEACHER_DIM, batch, signals

TEMPERATURE = 0.3
"""At which scores of random rows neither vanish nor overflow in the published form."""


def crd(**settings: Any) -> CRD:
    built = small_world.method("crd", embedding_dim=8, **settings)
    assert isinstance(built, CRD)
    return built


def step(method: CRD, seed: int = 5) -> Tensor:
    """One training step's loss, banks updated."""
    student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    loss = method.terms(student, Target.of(teacher), batch(seed=seed))["crd"]
    method.after_step()
    return loss.detach()


class Given(NamedTuple):
    """What the loss of one side is made of, in float64: five images, eleven negatives, a bank of 30 rows."""

    embedding_BE: Tensor
    bank_NE: Tensor
    index_BS: Tensor
    log_z: Tensor

    @classmethod
    def random(cls) -> Given:
        generator = torch.Generator().manual_seed(0)
        bank_NE = torch.randn(30, 8, generator=generator, dtype=torch.float64)
        index_BS = torch.randint(0, 30, (5, 12), generator=generator)
        assert any(len(row.unique()) < 12 for row in index_BS), "some negatives are repeated"
        embedding_BE = torch.randn(5, 8, generator=generator, dtype=torch.float64).requires_grad_()
        log_z = log_partition(log_scores_BS(embedding_BE.detach(), bank_NE, index_BS, TEMPERATURE), 30)
        return cls(embedding_BE, bank_NE, index_BS, log_z)

    def published(self) -> Tensor:
        """The published loss by torch's own differentiation: a gather of rows, scores and not their logs."""
        scores_BS = torch.exp(torch.einsum("be,bse->bs", self.embedding_BE, self.bank_NE[self.index_BS]) / TEMPERATURE)
        probabilities_BS = scores_BS / self.log_z.exp()
        noise = 11 / 30
        own_B, others_BJ = probabilities_BS[:, 0], probabilities_BS[:, 1:]
        logs_B = torch.log(own_B / (own_B + noise + 1e-7))
        return -(logs_B.sum() + torch.log(noise / (others_BJ + noise + 1e-7)).sum()) / 5


def test_scores_by_a_matrix_product_are_those_of_gathered_rows() -> None:
    given = Given.random()
    expected_BS = torch.einsum("be,bse->bs", given.embedding_BE, given.bank_NE[given.index_BS]) / TEMPERATURE
    found_BS = log_scores_BS(given.embedding_BE, given.bank_NE, given.index_BS, TEMPERATURE)
    torch.testing.assert_close(found_BS, expected_BS)
    z = sum(math.exp(score) for row in expected_BS.tolist() for score in row) / 60 * 30
    assert float(given.log_z) == pytest.approx(math.log(z), rel=1e-12)


def test_loss_and_gradient_are_the_published_ones() -> None:
    given = Given.random()
    losses = contrastive_loss(*given, TEMPERATURE), given.published()
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(3 * loss, given.embedding_BE)[0] for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-14)


def test_gradient_is_that_of_small_differences() -> None:
    given = Given.random()

    def loss(embedding_BE: Tensor) -> Tensor:
        return contrastive_loss(embedding_BE, given.bank_NE, given.index_BS, given.log_z, TEMPERATURE)

    assert torch.autograd.gradcheck(loss, given.embedding_BE)


def test_loss_changes_nothing_that_it_is_given() -> None:
    given = Given.random()
    before = [tensor.detach().clone() for tensor in given]
    contrastive_loss(*given, TEMPERATURE).backward()
    assert all(torch.equal(tensor.detach(), old) for tensor, old in zip(given, before, strict=True))


def test_loss_without_a_gradient_is_the_same() -> None:
    given = Given.random()
    plain = contrastive_loss(given.embedding_BE.detach(), *given[1:], TEMPERATURE)
    assert torch.equal(plain, contrastive_loss(*given, TEMPERATURE))
    assert not plain.requires_grad


@pytest.mark.parametrize("temperature", [0.07, 1e-3, 1e-6])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_no_temperature_overflows(temperature: float, half: bool) -> None:
    # scores of exp(1 / 0.07) are beyond float16, of exp(1e6) beyond everything
    method = crd(temperature=temperature, num_negatives=20)
    student, teacher = signals(1, STUDENT_DIM, requires_grad=True), signals(2, TEACHER_DIM)
    for seed in (5, 8):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = method.terms(student, Target.of(teacher), batch(seed=seed))["crd"]
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
        loss.backward()
        method.after_step()
    gradients = [student.pooled_BC.grad, *(parameter.grad for parameter in method.parameters())]
    for gradient in gradients:
        assert gradient is not None
        assert torch.isfinite(gradient).all()
    assert torch.isfinite(method.log_partitions_2).all()


def test_autocast_changes_no_number() -> None:
    losses = []
    for half in (False, True):
        method = crd(num_negatives=20)
        student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses.append(method.terms(student, Target.of(teacher), batch())["crd"])
    assert torch.equal(*losses)


def test_negatives_without_replacement_are_distinct_and_of_other_classes() -> None:
    method = crd(num_negatives=20)
    now = batch()
    negatives_BJ = method.negatives_BJ(now)
    assert negatives_BJ.shape == (9, 20)
    assert (LABELS_N[negatives_BJ] != now.labels_B[:, None]).all()
    assert all(len(row.unique()) == 20 for row in negatives_BJ)
    assert not torch.equal(negatives_BJ.sort().values, method.negatives_BJ(now).sort().values)
    assert torch.equal(negatives_BJ, method.negatives_BJ(batch()))


@pytest.mark.parametrize("way", ["_thinned_BJ", "_least_keyed_BJ"])
def test_every_set_of_negatives_is_equally_likely_and_independent_of_other_images(way: str) -> None:
    method, now, repeats, others = crd(num_negatives=20), batch(), 2000, IMAGES - 6
    is_drawn_RBN = torch.zeros(repeats, len(now.positions_B), IMAGES)
    for is_drawn_BN in is_drawn_RBN:
        is_drawn_BN.scatter_(1, getattr(method, way)(now), 1.0)
    may_BN = LABELS_N != now.labels_B[:, None]
    assert (is_drawn_RBN.sum(dim=2) == 20).all()
    assert not is_drawn_RBN[:, ~may_BN].any()
    share = 20 / others
    deviation = (share * (1 - share) / repeats) ** 0.5
    assert ((is_drawn_RBN.mean(dim=0)[may_BN] - share).abs() < 5 * deviation).all()
    correlation = torch.corrcoef(is_drawn_RBN[:, may_BN].T)  # images in turn, each with those it may draw
    image = torch.arange(len(now.positions_B)).repeat_interleave(others)
    expected = torch.where(image[:, None] == image, -1 / (others - 1), 0.0).fill_diagonal_(1.0)
    assert ((correlation - expected).abs() < 5.5 / repeats**0.5).all()


def test_negatives_shrink_to_what_there_is() -> None:
    method = crd()
    assert method.num_negatives == IMAGES - 6
    for row, label in zip(method.negatives_BJ(batch()), batch().labels_B, strict=True):
        assert torch.equal(row.sort().values, torch.nonzero(LABELS_N != label).squeeze(1))


def test_negatives_with_replacement_keep_their_number() -> None:
    method = crd(negatives="with_replacement", num_negatives=5000)
    now = batch()
    negatives_BJ = method.negatives_BJ(now)
    assert negatives_BJ.shape == (9, 5000)
    for row, label in zip(negatives_BJ, now.labels_B, strict=True):
        counts_N = torch.bincount(row, minlength=IMAGES)
        assert (counts_N[LABELS_N == label] == 0).all()
        assert (counts_N[LABELS_N != label] > 5000 / 36 / 2).all()


def test_unbalanced_classes_share_one_number_of_negatives() -> None:
    labels_N = torch.tensor([2] * 20 + [0] * 3 + [1] * 5)[
        torch.randperm(28, generator=torch.Generator().manual_seed(0))
    ]
    context = small_world.method_context(3, train_labels_N=labels_N)
    for settings in (CRD.Settings(), CRD.Settings(negatives="with_replacement", num_negatives=50)):
        method = CRD(settings, context)
        assert method.num_negatives == (8 if settings.negatives == "auto" else 50)
        now = Batch(labels_N, torch.arange(28), torch.arange(28), 1, torch.Generator().manual_seed(0))
        assert (labels_N[method.negatives_BJ(now)] != labels_N[:, None]).all()


def test_facts_name_the_resolved_negatives() -> None:
    assert CRD.facts(CRD.Settings(), [100] * 10) == {"negatives": 900}
    assert CRD.facts(CRD.Settings(), [5000] * 10) == {"negatives": 16384}
    assert CRD.facts(CRD.Settings(negatives="with_replacement"), [3] * 10) == {"negatives": 16384}
    with pytest.raises(DataError, match="at least two classes"):
        resolved_negatives(CRD.Settings(), [40, 0])


def test_partition_constants_are_those_of_the_first_batch() -> None:
    method = crd(num_negatives=20)
    assert method.log_partitions_2.isinf().all()
    student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    now = batch()
    index_BS = torch.cat([now.positions_B[:, None], method.negatives_BJ(batch())], dim=1)
    embedded = [
        torch.nn.functional.normalize(layer(pooled), dim=-1)
        for layer, pooled in ((method.embed_student, student.pooled_BC), (method.embed_teacher, teacher.pooled_BC))
    ]
    sides = [(embedded[0], method.teacher_bank_NE, index_BS), (embedded[1], method.student_bank_NE, index_BS)]
    scores = [log_scores_BS(*side, 0.07).exp() for side in sides]
    constants = torch.log(torch.stack([of_side.mean() for of_side in scores]).detach() * IMAGES)
    losses = [contrastive_loss(*side, log_z, 0.07) for side, log_z in zip(sides, constants, strict=True)]
    torch.testing.assert_close(method.terms(student, Target.of(teacher), now)["crd"], losses[0] + losses[1])
    torch.testing.assert_close(method.log_partitions_2, constants)
    kept_2 = method.log_partitions_2.clone()
    method.after_step()
    step(method, seed=8)
    assert torch.equal(method.log_partitions_2, kept_2)


def test_banks_move_after_the_step_only_and_in_the_rows_of_the_batch() -> None:
    method = crd()
    before = copy.deepcopy(method.state_dict())
    student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    now = batch()
    method.terms(student, Target.of(teacher), now)["crd"].backward()
    assert torch.equal(method.student_bank_NE, before["student_bank_NE"])
    method.after_step()
    for bank, layer, pooled in (
        ("student_bank_NE", method.embed_student, student.pooled_BC),
        ("teacher_bank_NE", method.embed_teacher, teacher.pooled_BC),
    ):
        mixed = 0.5 * before[bank][now.positions_B] + 0.5 * torch.nn.functional.normalize(layer(pooled), dim=-1)
        after = method.state_dict()[bank]
        torch.testing.assert_close(after[now.positions_B], torch.nn.functional.normalize(mixed, dim=-1))
        untouched = torch.ones(IMAGES, dtype=torch.bool)
        untouched[now.positions_B] = False
        assert torch.equal(after[untouched], before[bank][untouched])
    unchanged = copy.deepcopy(method.state_dict())
    method.after_step()
    assert all(torch.equal(unchanged[key], value) for key, value in method.state_dict().items())


def test_all_targets_of_a_step_share_negatives_and_the_first_fills_the_banks() -> None:
    student, first, second = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM), signals(3, TEACHER_DIM)
    method, alone = crd(num_negatives=20), crd(num_negatives=20)
    now = batch()
    method.terms(student, Target.of(first), now)
    drawn = now.generator.get_state()
    method.terms(student, Target.of(second), now)
    assert torch.equal(now.generator.get_state(), drawn)
    alone.terms(student, Target.of(first), batch())
    method.after_step()
    alone.after_step()
    assert torch.equal(method.teacher_bank_NE, alone.teacher_bank_NE)


def test_a_checkpoint_restores_the_next_steps_exactly() -> None:
    method = crd(num_negatives=20)
    step(method)
    restored = crd(num_negatives=20)
    restored.load_state_dict(copy.deepcopy(method.state_dict()))
    assert {"student_bank_NE", "teacher_bank_NE", "log_partitions_2"} <= method.state_dict().keys()
    assert [float(step(method, seed)) for seed in (8, 9)] == [float(step(restored, seed)) for seed in (8, 9)]


def test_initialisation_depends_on_the_generator_alone() -> None:
    first = crd().state_dict()
    torch.manual_seed(123)
    other = crd().state_dict()
    assert all(torch.equal(first[key], other[key]) for key in first)
    bound = (8 / 3) ** -0.5
    assert float(first["student_bank_NE"].abs().max()) <= bound
    assert float(first["student_bank_NE"].std()) == pytest.approx(bound / 3**0.5, rel=0.1)


def test_scale_of_the_target_does_not_matter() -> None:
    teacher = signals(2, TEACHER_DIM)
    method = crd()
    torch.nn.init.zeros_(method.embed_teacher.bias)
    student = signals(1, STUDENT_DIM)
    first = method.terms(student, Target.of(teacher), batch())["crd"]
    scaled = Signals(teacher.logits_BK, 2.44 * teacher.pooled_BC)
    torch.testing.assert_close(method.terms(student, Target.of(scaled), batch())["crd"], first)


def test_single_precision_survives_the_largest_scores() -> None:
    method = crd(temperature=0.07)
    row = torch.nn.functional.normalize(torch.ones(8), dim=0)
    method.student_bank_NE.copy_(row.expand(IMAGES, 8))
    method.teacher_bank_NE.copy_(row.expand(IMAGES, 8))
    for layer in (method.embed_student, method.embed_teacher):
        layer.weight.data.zero_()
        layer.bias.data.fill_(1.0)
    student = signals(1, STUDENT_DIM, requires_grad=True)
    loss = method.terms(student, Target.of(signals(2, TEACHER_DIM)), batch())["crd"]
    loss.backward()
    assert torch.isfinite(loss)
    assert student.pooled_BC.grad is not None
    assert torch.isfinite(student.pooled_BC.grad).all()
    assert CLASSES == len(set(LABELS_N.tolist()))
