"""Diversity and angles: definitions typed anew, the identity between variance and cosines, edge cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from akdtune.training.diversity import CHUNK, DiversityMeter, cross_entropy_diversity_B, mean_pair_cosine_B, variance_B


def members(size: int = 6, count: int = 4, width: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(size, count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measured(logits_BMK: Tensor, pooled_BMC: Tensor, labels_B: Tensor) -> dict[str, float | None]:
    meter = DiversityMeter()
    meter.update(logits_BMK, pooled_BMC, labels_B)
    return meter.result()


def test_variance_is_fixed_by_norms_and_either_kind_of_cosine() -> None:
    # D_sq = 1/(2 M^2) sum |R_i - R_j|^2, by the cosines of the members and, among views, by those of the offsets
    for members_MR in members():
        count = len(members_MR)
        by_cosine = by_offset = 0.0
        delta = members_MR[0] - members_MR
        for i in range(count):
            for j in range(count):
                norms = float(members_MR[i].norm() * members_MR[j].norm())
                cosine = float(members_MR[i] @ members_MR[j]) / norms
                inner = float(members_MR[i] @ members_MR[i]) + float(members_MR[j] @ members_MR[j])
                by_cosine += inner - 2 * norms * cosine
                offset_norms = float(delta[i].norm() * delta[j].norm())
                offset_cosine = float(delta[i] @ delta[j]) / offset_norms if offset_norms else 0.0
                by_offset += float(delta[i] @ delta[i]) + float(delta[j] @ delta[j]) - 2 * offset_norms * offset_cosine
        expected = float(variance_B(members_MR[None]))
        assert by_cosine / (2 * count**2) == pytest.approx(expected, rel=1e-12)
        assert by_offset / (2 * count**2) == pytest.approx(expected, rel=1e-12)


def test_variance_of_unit_vectors_is_one_minus_the_mean_cosine() -> None:
    unit_BMR = torch.nn.functional.normalize(members(), dim=-1)
    mean_cosine_B = (unit_BMR @ unit_BMR.mT).mean(dim=(1, 2))
    torch.testing.assert_close(variance_B(unit_BMR), 1 - mean_cosine_B)


def test_pair_cosine_is_the_mean_over_pairs() -> None:
    members_MR = members(size=1)[0]
    cosines = [float(torch.cosine_similarity(members_MR[i], members_MR[j], dim=0)) for i in range(4) for j in range(i)]
    assert float(mean_pair_cosine_B(members_MR[None])) == pytest.approx(sum(cosines) / 6, rel=1e-12)


def test_cross_entropy_diversity_as_published_and_bounded() -> None:
    log_BMK = torch.log_softmax(members(count=3), dim=-1)
    labels_B = torch.tensor([0, 1, 2, 3, 4, 0])
    for b, label in enumerate(labels_B):
        p = log_BMK[b, :, label].exp()
        expected = float(p.var(correction=0) / (2 * p.max() ** 2))
        assert float(cross_entropy_diversity_B(log_BMK, labels_B)[b]) == pytest.approx(expected, rel=1e-12)
    certain = torch.tensor([[[0.0, -2000.0], [-2000.0, 0.0]]], dtype=torch.float64)
    assert float(cross_entropy_diversity_B(certain, torch.tensor([0]))) == pytest.approx(1 / 8)


def test_cross_entropy_diversity_bounds_the_gain_of_the_ensemble() -> None:
    logits_BMK = members(size=200, count=4, width=3) * 2
    labels_B = torch.arange(200) % 3
    log_label_BM = torch.log_softmax(logits_BMK, dim=-1)[torch.arange(200), :, labels_B]
    ensemble = -(log_label_BM.exp().mean(dim=1).log()).mean()
    single = -log_label_BM.mean()
    assert (
        0
        < float(cross_entropy_diversity_B(torch.log_softmax(logits_BMK, dim=-1), labels_B).mean())
        <= single - ensemble
    )


def test_meter_holds_every_measure() -> None:
    logits_BMK, pooled_BMC = members(width=3), members(width=5, seed=1)
    labels_B = torch.tensor([0, 1, 2, 0, 1, 2])
    measures = measured(logits_BMK, pooled_BMC, labels_B)
    p_BMK = torch.softmax(logits_BMK, dim=-1)
    expected: dict[str, Tensor] = {
        "ensemble_accuracy": 100 * (p_BMK.mean(dim=1).argmax(dim=-1) == labels_B).double(),
        "diversity_ce": cross_entropy_diversity_B(p_BMK.log(), labels_B),
        "inter_cosine": mean_pair_cosine_B(pooled_BMC[:, 1:]),
        "teacher_cosine": torch.cosine_similarity(pooled_BMC[:, :1], pooled_BMC[:, 1:], dim=2).mean(dim=1),
        "teacher_cosine_prob": torch.cosine_similarity(p_BMK[:, :1], p_BMK[:, 1:], dim=2).mean(dim=1),
        "offset_cosine": mean_pair_cosine_B(pooled_BMC[:, :1] - pooled_BMC[:, 1:]),
        "inter_cosine_prob": mean_pair_cosine_B(p_BMK[:, 1:]),
        "offset_cosine_prob": mean_pair_cosine_B(p_BMK[:, :1] - p_BMK[:, 1:]),
    }
    for level, of_level in (("prob", p_BMK), ("logit", logits_BMK), ("feature", pooled_BMC)):
        expected[f"diversity_sq_{level}"] = variance_B(of_level)
        expected[f"diversity_pair_{level}"] = variance_B(of_level) * 4 / 3
    assert measures == {name: pytest.approx(float(values.mean()), rel=1e-12) for name, values in expected.items()}


def test_batches_add_up() -> None:
    logits_BMK, pooled_BMC = members(size=CHUNK + 7).float(), members(size=CHUNK + 7, seed=1).float()
    labels_B = torch.arange(CHUNK + 7) % 5
    meter = DiversityMeter()
    for rows in (slice(0, 5), slice(5, 60), slice(60, None)):
        meter.update(logits_BMK[rows], pooled_BMC[rows], labels_B[rows])
    whole = measured(logits_BMK, pooled_BMC, labels_B)
    assert meter.result() == {name: pytest.approx(value, rel=1e-12) for name, value in whole.items()}


@pytest.mark.parametrize(("views", "angles", "pairs"), [(0, False, False), (1, False, True), (2, True, True)])
def test_what_needs_more_members_is_none_not_nan(views: int, angles: bool, pairs: bool) -> None:
    measures = measured(members(count=1 + views), members(count=1 + views, seed=1), torch.zeros(6, dtype=torch.long))
    assert (measures["inter_cosine"] is not None) is angles
    assert (measures["offset_cosine_prob"] is not None) is angles
    assert (measures["teacher_cosine"] is not None) is pairs
    assert (measures["diversity_pair_prob"] is not None) is pairs
    assert (measures["diversity_sq_prob"] == 0.0) is (views == 0)
    assert all(value is None or math.isfinite(value) for value in measures.values())


def test_diversity_does_not_depend_on_the_order_of_views() -> None:
    logits_BMK, pooled_BMC = members(), members(seed=1)
    labels_B = torch.zeros(6, dtype=torch.long)
    turned = [0, 3, 1, 2]
    given, other = (
        measured(logits_BMK, pooled_BMC, labels_B),
        measured(logits_BMK[:, turned], pooled_BMC[:, turned], labels_B),
    )
    assert given == {name: pytest.approx(value, rel=1e-12) for name, value in other.items()}


def test_logits_and_features_may_have_different_numbers_of_members() -> None:
    measures = measured(members(count=4), members(count=1), torch.zeros(6, dtype=torch.long))
    assert measures["inter_cosine"] is None
    assert measures["inter_cosine_prob"] is not None
    assert measures["diversity_sq_feature"] == 0.0
