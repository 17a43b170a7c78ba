"""Angular-KD: the formulas of `paper` and `constrained` typed anew with loops, heads, presets, stages of training."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from akdtune.errors import AkdtuneError
from akdtune.signals import Signals, Views
from akdtune.training.objective import weighted_sum
from akdtune.views._angular_heads import ViewHeads
from akdtune.views._angular_losses import Level, diversity_loss_L, inside_margin_LB, mean_over_pairs, similarities
from akdtune.views._angular_settings import AngularSettings
from akdtune.views.angular import Angular
from tests import small_world
from tests.small_world import CLASSES, TEACHER_DIM, batch, signals


def angular(**settings: Any) -> Angular:
    """Angular views on the small world."""
    built = small_world.views("angular", **settings)
    assert isinstance(built, Angular)
    return built


def near_views(teacher: Signals, count: int, spread: float) -> Views:
    """Views of a teacher at a chosen distance, double precision."""
    generator = torch.Generator().manual_seed(11)

    def around(x_BR: Tensor) -> Tensor:
        noise = torch.randn(len(x_BR), count, x_BR.shape[1], generator=generator, dtype=x_BR.dtype)
        return (x_BR.unsqueeze(1) + spread * noise).requires_grad_()

    return Views(around(teacher.logits_BK), around(teacher.pooled_BC))


def doubled(said: Signals) -> Signals:
    return Signals(said.logits_BK.double(), said.pooled_BC.double())


def numbers(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in terms.items()}


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def retyped(teacher_BR: Tensor, views_BVR: Tensor, margin: float, constraint: str) -> dict[str, float]:
    """Inter and intra losses of one level as SYSTEMS 1.1 words them, one sample and one pair at a time."""
    size, count = views_BVR.shape[:2]
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    held, spread, offsets = [], [], []
    for b in range(size):
        own = [cosine(views_BVR[b, i], teacher_BR[b]) for i in range(count)]
        for i in range(count):
            if constraint == "hinge":
                held.append(max(0.0, 1 - margin - own[i]))
                continue
            scores = [cosine(views_BVR[b, i], teacher_BR[other]) for other in range(size)]
            if constraint == "infonce_clip":
                scores[b] = 1.0 if own[i] >= 1 - margin else own[i]
            else:
                scores[b] = min(own[i] + margin, 1.0)
            held.append(math.log(sum(math.exp(score / 0.07) for score in scores)) - scores[b] / 0.07)
        is_open = all(value > 1 - margin for value in own)
        similar = [softplus(cosine(views_BVR[b, i], views_BVR[b, j])) for i, j in pairs]
        spread.append(sum(similar) / len(pairs) if is_open else 0.0)
        deltas = [teacher_BR[b] - views_BVR[b, i] for i in range(count)]
        offsets.append(sum(softplus(cosine(deltas[i], deltas[j])) for i, j in pairs) / len(pairs))
    return {
        "constraint": sum(held) / len(held),
        "diversity": sum(spread) / size,
        "intra": sum(offsets) / size,
        "open": sum(value > 0 for value in spread) / size,
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"variant": "paper"},
        {"variant": "constrained"},
        {"variant": "paper", "constraint": "infonce_shift"},
        {"variant": "paper", "margin": 0.22, "num_views": 3, "angle_temperature": 2.0},
    ],
)
def test_paper_formula(settings: dict[str, Any]) -> None:
    views_augmenter = angular(**settings)
    chosen = views_augmenter.settings
    teacher = doubled(signals(1, TEACHER_DIM))
    views = near_views(teacher, chosen.num_views, 0.28)
    labels_B = batch().labels_B
    terms = numbers(views_augmenter.penalties(teacher, views, labels_B))
    gates = numbers(views_augmenter.gates(teacher, views))
    levels = {
        "feature": (teacher.pooled_BC, views.pooled_BVC),
        "logit": tuple(torch.softmax(x / chosen.angle_temperature, -1) for x in (teacher.logits_BK, views.logits_BVK)),
    }
    for level, (teacher_BR, views_BVR) in levels.items():
        expected = retyped(teacher_BR, views_BVR.detach(), chosen.margin, chosen.constraint)
        for kind in ("constraint", "diversity", "intra"):
            assert terms[f"{level}_{kind}"] == pytest.approx(expected[kind], rel=1e-9)
        assert gates[level] == pytest.approx(expected["open"])
    assert 0 < gates["feature"] < 1, "the case must test both sides of the gate"
    label_losses = [
        -float(torch.log_softmax(views.logits_BVK[b, i].detach(), dim=-1)[label])
        for b, label in enumerate(labels_B)
        for i in range(chosen.num_views)
    ]
    assert terms["ground_truth"] == pytest.approx(sum(label_losses) / len(labels_B), rel=1e-9)


def test_losses_pass_gradcheck() -> None:
    views_augmenter = angular(variant="paper", num_views=3)
    teacher = doubled(signals(1, TEACHER_DIM, size=4))
    views = near_views(teacher, 3, 0.28)

    def total(logits_BVK: Tensor, pooled_BVC: Tensor) -> Tensor:
        terms = views_augmenter.penalties(teacher, Views(logits_BVK, pooled_BVC), batch(4).labels_B)
        return torch.stack(list(terms.values())).sum()

    assert torch.autograd.gradcheck(total, (views.logits_BVK, views.pooled_BVC))


def test_hinge_has_no_gradient_inside_the_margin_and_the_clipped_contrast_has() -> None:
    teacher = doubled(signals(1, TEACHER_DIM))
    views = near_views(teacher, 5, 1e-3)
    labels_B = batch().labels_B
    for variant, moves in (("constrained", False), ("paper", True)):
        term = angular(variant=variant).penalties(teacher, views, labels_B)["feature_constraint"]
        (gradient,) = torch.autograd.grad(term, views.pooled_BVC)
        assert bool(gradient.abs().max() > 0) is moves


def test_diversity_denominators() -> None:
    pairs_LBP = torch.full((1, 4, 3), 0.5)
    open_LB = torch.tensor([[True, False, False, False]])
    each = softplus(0.5)
    assert float(diversity_loss_L(pairs_LBP, open_LB, "B")) == pytest.approx(each / 4)
    assert float(diversity_loss_L(pairs_LBP, open_LB, "active")) == pytest.approx(each)
    assert float(diversity_loss_L(pairs_LBP, ~open_LB & False, "active")) == 0.0


def test_gate_needs_every_view_inside() -> None:
    own_LBV = torch.tensor([[[0.9, 0.95], [0.9, 0.75], [0.1, 0.2]]])
    assert inside_margin_LB(own_LBV, 0.2).tolist() == [[True, False, False]]


def test_similarities_are_cosines_of_the_right_vectors() -> None:
    teacher = doubled(signals(1, TEACHER_DIM))
    views_BVR = near_views(teacher, 3, 0.28).pooled_BVC.detach()
    similar = similarities([Level(teacher.pooled_BC, views_BVR)])
    for b in range(9):
        f, v = teacher.pooled_BC[b], views_BVR[b]
        assert similar.own_LBV[0, b].tolist() == pytest.approx([cosine(v[i], f) for i in range(3)])
        pairs = [(0, 1), (0, 2), (1, 2)]
        assert similar.pairs_LBP[0, b].tolist() == pytest.approx([cosine(v[i], v[j]) for i, j in pairs])
        assert similar.offsets_LBP[0, b].tolist() == pytest.approx([cosine(f - v[i], f - v[j]) for i, j in pairs])


def test_mean_over_pairs_of_a_single_view_is_zero() -> None:
    assert float(mean_over_pairs(torch.tensor([1.0, 2.0, 6.0]))) == 3.0
    assert mean_over_pairs(torch.empty(4, 0)).tolist() == [0.0] * 4


def test_offsets_of_coinciding_views_stay_finite() -> None:
    teacher_BR = torch.eye(3)
    views_BVR = teacher_BR.unsqueeze(1).repeat(1, 2, 1).requires_grad_()
    similar = similarities([Level(teacher_BR, views_BVR)])
    similar.offsets_LBP.sum().backward()
    assert views_BVR.grad is not None
    assert torch.isfinite(views_BVR.grad).all()
    assert torch.equal(similar.offsets_LBP, torch.zeros_like(similar.offsets_LBP))


@pytest.mark.parametrize(
    "switch",
    [
        {"constraint": "hinge"},
        {"con_extra_1_over_N": True},
        {"angle_temperature": 4.0},
        {"logit_sim": "dot"},
        {"div_norm": "view"},
        {"div_denominator": "active"},
        {"intra_norm": "unit"},
        {"softplus_of": "batch_mean"},
        {"contrast_temperature": 0.2},
        {"margin": 0.3},
        {"logit_margin": 0.01},
        {"gt_reduction": "mean"},
    ],
)
def test_every_loss_switch_changes_a_loss(switch: dict[str, Any]) -> None:
    teacher = doubled(signals(1, TEACHER_DIM))
    views = near_views(teacher, 5, 0.28)
    labels_B = batch().labels_B
    plain = numbers(angular(variant="paper").penalties(teacher, views, labels_B))
    switched = numbers(angular(variant="paper", **switch).penalties(teacher, views, labels_B))
    assert plain.keys() == switched.keys()
    assert plain != switched


@pytest.mark.parametrize(
    ("settings", "gone"),
    [
        ({"inter": False}, {"feature_constraint", "feature_diversity", "logit_constraint", "logit_diversity"}),
        ({"intra": False}, {"feature_intra", "logit_intra"}),
        ({"diversity_weight": 0}, {"feature_diversity", "logit_diversity"}),
        ({"constraint_weight": 0}, {"feature_constraint", "logit_constraint"}),
        ({"feature_inter_weight": 0}, {"feature_constraint", "feature_diversity"}),
        ({"logit_intra_weight": 0}, {"logit_intra"}),
        ({"gt_weight": 0}, {"ground_truth"}),
    ],
)
def test_what_is_switched_off_is_not_computed(settings: dict[str, Any], gone: set[str]) -> None:
    every = set(angular().warmup_penalties(signals(1, TEACHER_DIM), batch()))
    assert set(angular(**settings).warmup_penalties(signals(1, TEACHER_DIM), batch())) == every - gone


def test_weights_multiply() -> None:
    chosen = {"feature_inter_weight": 0.5, "constraint_weight": 10, "diversity_weight": 3, "gt_weight": 0.7}
    weights = angular(**chosen).penalty_weights()
    assert weights["feature_constraint"] == 5.0
    assert weights["feature_diversity"] == 1.5
    assert weights["logit_constraint"] == 10.0
    assert weights["logit_diversity"] == 3.0
    assert weights["ground_truth"] == 0.7


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"variant": "released"},
        {"variant": "constrained", "margin": 0.4, "num_views": 7},
        {"variant": "released", "ensemble": "uniform", "dropout": [0.1] * 5},
        {"learnable_margin": True},
    ],
)
def test_settings_round_trip(given: dict[str, Any]) -> None:
    settings = AngularSettings(**given)
    assert AngularSettings(**settings.model_dump()) == settings
    assert AngularSettings(**settings.model_dump(mode="json")) == settings
    assert all(settings.model_dump()[key] == value for key, value in given.items())


def test_presets_differ_where_paper_and_code_disagree() -> None:
    paper = AngularSettings(variant="paper").model_dump()
    released = AngularSettings(variant="released").model_dump()
    constrained = AngularSettings(variant="constrained").model_dump()
    assert {key for key in paper if paper[key] != constrained[key]} == {"variant", "constraint", "constraint_weight"}
    assert (constrained["constraint"], constrained["constraint_weight"]) == ("hinge", 10.0)
    assert {key: (paper[key], released[key]) for key in paper if paper[key] != released[key] and key != "variant"} == {
        "feature_inter_weight": (1.0, 0.1),
        "con_extra_1_over_N": (False, True),
        "angle_temperature": (1.0, 4.0),
        "logit_sim": ("cosine", "dot"),
        "div_norm": ("feature", "view"),
        "softplus_of": ("sample", "batch_mean"),
        "ensemble": ("uniform", "weighted_l2"),
        "target_temperature": (None, 4.0),
        "detach_targets": (True, False),
        "target_mode": ("eval", "train"),
        "norm_init": ("standard", "released"),
    }


def test_defaults_of_the_class_are_the_paper_preset() -> None:
    fields = AngularSettings.model_fields
    assert AngularSettings().model_dump() == {name: field.default for name, field in fields.items()}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"variant": "released", "learnable_margin": True}, "does not go with variant released"),
        ({"constraint": "infonce_clip", "learnable_margin": True}, "infonce_clip never moves it"),
        ({"learnable_margin": True, "margin": 0.7}, "must be below margin_max"),
        ({"learnable_margin": True, "logit_margin": 0.5}, "logit_margin must be null"),
        ({"dropout": [0.1, 0.2]}, "one rate per view"),
        ({"dropout": 1.0}, "must lie in"),
        ({"gt_weight": 0, "inter": False, "intra": False}, "no view loss has a weight"),
        ({"variant": "papier"}, "variant"),
        ({"num_views": 0}, "num_views"),
        ({"margins": 0.1}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AngularSettings(**given)


# --- heads ----------------------------------------------------------------------------------------------------------


def plain_heads(heads: ViewHeads, pooled_BC: Tensor, masks_VBC: Tensor | None) -> Views:
    """The same heads one at a time from torch's own layers."""
    logits, pooled = [], []
    for head in range(len(heads.keep_V)):
        width = pooled_BC.shape[1]
        norm = torch.nn.BatchNorm1d(width)
        norm.weight.data, norm.bias.data = heads.norm_scale_VC.data[head], heads.norm_shift_VC.data[head]
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(heads.running_mean_VC[head])
        norm.running_var.copy_(heads.running_var_VC[head])
        norm.train(masks_VBC is not None)
        dropped_BC = pooled_BC if masks_VBC is None else pooled_BC * masks_VBC[head]
        feature_BC = norm(dropped_BC @ heads.weight_VCC[head] + heads.bias_VC[head])
        pooled.append(feature_BC)
        logits.append(feature_BC @ heads.classifier_VCK[head] + heads.classifier_bias_VK[head])
    return Views(torch.stack(logits, dim=1), torch.stack(pooled, dim=1))


def test_heads_equal_one_head_at_a_time() -> None:
    heads = angular(norm_init="released").heads
    pooled_BC = signals(1, TEACHER_DIM).pooled_BC
    masks_VBC = heads.dropped_VBC(torch.ones_like(pooled_BC), torch.Generator().manual_seed(7))
    expected = plain_heads(heads, pooled_BC, masks_VBC)
    drawn = heads(pooled_BC, True, torch.Generator().manual_seed(7))
    torch.testing.assert_close(drawn.logits_BVK, expected.logits_BVK)
    torch.testing.assert_close(drawn.pooled_BVC, expected.pooled_BVC)
    torch.testing.assert_close(heads(pooled_BC, False).logits_BVK, plain_heads(heads, pooled_BC, None).logits_BVK)


def test_running_statistics_move_as_batch_norm_moves_them() -> None:
    heads = angular(dropout=0.0).heads
    pooled_BC = signals(1, TEACHER_DIM).pooled_BC
    mixed_BC = pooled_BC @ heads.weight_VCC[2] + heads.bias_VC[2]
    heads(pooled_BC, True, torch.Generator())
    torch.testing.assert_close(heads.running_mean_VC[2], 0.1 * mixed_BC.mean(dim=0))
    torch.testing.assert_close(heads.running_var_VC[2], 0.9 + 0.1 * mixed_BC.var(dim=0))


def test_orthogonal_initialisation() -> None:
    heads = angular(num_views=5).heads
    vectors_CVC = heads.weight_VCC.detach().permute(2, 0, 1)  # per output channel: one vector a view
    torch.testing.assert_close(vectors_CVC @ vectors_CVC.mT, torch.eye(5).expand(TEACHER_DIM, 5, 5), atol=1e-5, rtol=0)
    within_CC = heads.weight_VCC[0].detach().T @ heads.weight_VCC[0].detach()
    assert (within_CC - torch.eye(TEACHER_DIM)).abs().max() > 0.1, "a single head is not an orthogonal matrix"


def test_independent_initialisation_keeps_the_length_only() -> None:
    heads = angular(num_views=5, heads_orthogonal=False).heads
    vectors_CVC = heads.weight_VCC.detach().permute(2, 0, 1)
    torch.testing.assert_close(vectors_CVC.norm(dim=-1), torch.ones(TEACHER_DIM, 5))
    assert (vectors_CVC @ vectors_CVC.mT - torch.eye(5)).abs().max() > 0.1


def test_more_orthogonal_views_than_dimensions_are_refused() -> None:
    with pytest.raises(AkdtuneError, match="num_views: 13 views cannot be orthogonal in 12 dimensions"):
        angular(num_views=13)
    assert angular(num_views=13, heads_orthogonal=False).heads.weight_VCC.shape == (13, 12, 12)


def test_parameters_of_a_head_as_published() -> None:
    heads = ViewHeads(256, 100, [0.15], True, "standard", torch.Generator())
    assert sum(parameter.numel() for parameter in heads.parameters()) == 92_004


def test_released_norm_init_is_one_pair_a_head() -> None:
    heads = angular(num_views=8, norm_init="released").heads
    for values_VC in (heads.norm_scale_VC.detach(), heads.norm_shift_VC.detach()):
        assert torch.equal(values_VC, values_VC[:, :1].expand_as(values_VC))
        assert len(values_VC[:, 0].unique()) == 8


def test_default_dropout_rates_work_for_any_number_of_views() -> None:
    assert AngularSettings(num_views=5).dropout_rates() == pytest.approx([0.15, 0.20, 0.25, 0.30, 0.35])
    assert AngularSettings(num_views=8).dropout_rates()[5:] == pytest.approx([0.40, 0.40, 0.40])


def test_dropout_keeps_the_expected_share_and_scale() -> None:
    heads = ViewHeads(50, 3, [0.0, 0.5], True, "standard", torch.Generator())
    dropped_VBC = heads.dropped_VBC(torch.ones(400, 50), torch.Generator().manual_seed(0))
    assert torch.equal(dropped_VBC[0], torch.ones(400, 50))
    assert set(dropped_VBC[1].unique().tolist()) == {0.0, 2.0}
    assert float(dropped_VBC[1].mean()) == pytest.approx(1.0, abs=0.03)


# --- targets and stages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 7])
@pytest.mark.parametrize(
    ("ensemble", "total"),
    [
        ("uniform", lambda n: 1.0),
        ("weighted_l1", lambda n: 1.0),
        ("weighted_l2", lambda n: (0.8 * n + 1) / math.sqrt(0.64 * n + 1)),
    ],
)
def test_ensemble_weights(count: int, ensemble: str, total: Any) -> None:
    views_augmenter = angular(num_views=count, ensemble=ensemble)
    teacher = signals(1, TEACHER_DIM)
    target = views_augmenter.teach(teacher, teacher, batch()).logit_targets[0].target
    assert target.probabilities_BK(4.0).sum(dim=-1).tolist() == pytest.approx([total(count)] * 9, rel=1e-5)


def test_released_target_sums_to_2_44_at_its_own_temperature() -> None:
    teacher = signals(1, TEACHER_DIM)
    target = angular(variant="released").teach(teacher, teacher, batch()).logit_targets[0].target
    assert float(target.probabilities_BK(1.0).detach().sum(dim=-1)[0]) == pytest.approx(2.4397, abs=1e-4)
    assert torch.equal(target.probabilities_BK(1.0), target.probabilities_BK(4.0))


def test_paper_target_is_the_mean_of_teacher_and_steady_views() -> None:
    views_augmenter = angular().train()
    teacher = signals(1, TEACHER_DIM)
    steady = views_augmenter.heads(teacher.pooled_BC, False)
    target = views_augmenter.teach(teacher, teacher, batch()).logit_targets[0].target
    members_BMK = torch.cat([teacher.logits_BK.unsqueeze(1), steady.logits_BVK], dim=1)
    torch.testing.assert_close(target.probabilities_BK(4.0), torch.softmax(members_BMK / 4, dim=-1).mean(dim=1))
    members_BMC = torch.cat([teacher.pooled_BC.unsqueeze(1), steady.pooled_BVC], dim=1)
    torch.testing.assert_close(target.pooled_BC, members_BMC.mean(dim=1))


@pytest.mark.parametrize(("detach", "mode"), [(True, "eval"), (True, "train"), (False, "eval"), (False, "train")])
def test_targets_carry_a_gradient_to_the_heads_only_when_asked(detach: bool, mode: str) -> None:
    views_augmenter = angular(detach_targets=detach, target_mode=mode).train()
    teacher = signals(1, TEACHER_DIM, requires_grad=True)
    teaching = views_augmenter.teach(teacher, teacher, batch())
    target = teaching.logit_targets[0].target
    assert target.logits_BMK.requires_grad is not detach
    weighted_sum(teaching.penalties, views_augmenter.penalty_weights()).backward()  # type: ignore[union-attr]
    assert teacher.logits_BK.grad is None
    assert teacher.pooled_BC.grad is None


def test_target_mode_train_uses_dropout_and_batch_statistics() -> None:
    teacher = signals(1, TEACHER_DIM)
    live = angular(target_mode="train").train()
    expected = copy.deepcopy(live).views(teacher, batch().generator)
    target = live.teach(teacher, teacher, batch()).logit_targets[0].target
    torch.testing.assert_close(target.logits_BMK[:, 1:], expected.logits_BVK.detach())


@pytest.mark.parametrize(
    ("mode", "warmup", "jointly"),
    [
        ("pretrain", 30, False),
        ("joint", 0, True),
        ("both", 30, True),
        ("frozen", 0, False),
    ],
)
def test_when_heads_train(mode: str, warmup: int, jointly: bool) -> None:
    views_augmenter = angular(train_heads=mode).train()
    assert (views_augmenter.warmup_epochs, views_augmenter.trains_jointly) == (warmup, jointly)
    teacher = signals(1, TEACHER_DIM)
    before = copy.deepcopy(views_augmenter.state_dict())
    teaching = views_augmenter.teach(teacher, teacher, batch())
    assert bool(teaching.penalties) is jointly
    assert set(teaching.gates) == {"feature", "logit"}
    assert not any(target.target.logits_BMK.requires_grad for target in teaching.logit_targets)
    moved = any(not torch.equal(before[key], value) for key, value in views_augmenter.state_dict().items())
    assert moved is jointly, "statistics stand still where heads do not train"


def test_warmup_learning_rate() -> None:
    rates = [angular(warmup_epochs=30).warmup_learning_rate(epoch) for epoch in (1, 10, 11, 20, 21, 30)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    rates = [angular(warmup_epochs=4, warmup_lr=0.2).warmup_learning_rate(epoch) for epoch in (1, 2, 3, 4)]
    assert rates == pytest.approx([0.2, 0.2, 0.02, 0.002])


@pytest.mark.parametrize("variant", ["paper", "released", "constrained"])
def test_a_single_view_works(variant: str) -> None:
    views_augmenter = angular(variant=variant, num_views=1).train()
    teacher = signals(1, TEACHER_DIM)
    teaching = views_augmenter.teach(teacher, teacher, batch())
    penalties = numbers(teaching.penalties)
    assert penalties["feature_intra"] == penalties["logit_intra"] == penalties["feature_diversity"] == 0.0
    total = weighted_sum(teaching.penalties, views_augmenter.penalty_weights())
    assert total is not None
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in views_augmenter.parameters() if p.grad is not None)
    assert views_augmenter.heads.weight_VCC.grad is not None


def test_order_of_views_does_not_matter() -> None:
    teacher = doubled(signals(1, TEACHER_DIM))
    views = near_views(teacher, 5, 0.28)
    turned = Views(views.logits_BVK[:, [3, 0, 4, 1, 2]], views.pooled_BVC[:, [3, 0, 4, 1, 2]])
    for variant in ("paper", "released", "constrained"):
        views_augmenter = angular(variant=variant)
        one, other = (numbers(views_augmenter.penalties(teacher, v, batch().labels_B)) for v in (views, turned))
        assert one == pytest.approx(other, rel=1e-12)


def test_learned_margin_stays_in_its_bound_and_pays_its_price() -> None:
    views_augmenter = angular(variant="constrained", learnable_margin=True, margin=0.2, margin_penalty=0.5)
    assert views_augmenter.measures()["margin"] == pytest.approx(0.2)
    terms = views_augmenter.warmup_penalties(signals(1, TEACHER_DIM), batch())
    assert numbers(terms)["margin"] == pytest.approx(0.2)
    assert views_augmenter.penalty_weights()["margin"] == 0.5
    assert views_augmenter.raw_margin is not None
    (gradient,) = torch.autograd.grad(terms["feature_constraint"], views_augmenter.raw_margin, retain_graph=True)
    assert float(gradient) < 0, "a wider margin costs less constraint"
    (price,) = torch.autograd.grad(terms["margin"], views_augmenter.raw_margin)
    assert float(price) > 0
    views_augmenter.raw_margin.data.fill_(1e6)
    assert views_augmenter.measures()["margin"] == pytest.approx(0.6)
    assert AngularSettings(learnable_margin=True).constraint == "infonce_shift"
    assert angular(margin=0.25).measures() == {"margin": 0.25}


def test_a_heads_step_is_reproducible_to_the_bit() -> None:
    def three_steps() -> list[float]:
        views_augmenter = angular(variant="released").train()
        optimizer = torch.optim.SGD(views_augmenter.parameters(), lr=0.1, momentum=0.9)
        generator = batch().generator
        losses = []
        for _ in range(3):
            now = batch()
            now = type(now)(now.labels_B, now.sample_ids_B, now.positions_B, 1, generator)
            terms = views_augmenter.warmup_penalties(signals(1, TEACHER_DIM), now)
            total = weighted_sum(terms, views_augmenter.penalty_weights())
            assert total is not None
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            losses.append(float(total.detach()))
        return losses

    losses = three_steps()
    assert losses == three_steps()
    assert losses[2] < losses[0]


def test_classes_and_widths_come_from_the_context() -> None:
    views_augmenter = angular(num_views=3).eval()
    views = views_augmenter.views(signals(1, TEACHER_DIM), torch.Generator())
    assert views.logits_BVK.shape == (9, 3, CLASSES)
    assert views.pooled_BVC.shape == (9, 3, TEACHER_DIM)
