"""The formulas of the logit methods, typed anew from the papers: numpy, float64, one image and one class at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from akdtune.signals import Batch, Signals, Target
from tests.small_world import CLASSES, STUDENT_DIM, TEACHER_DIM, method

Matrix = NDArray[np.float64]
SIZE = 8
RNG = np.random.default_rng(7)
STUDENT, TEACHER, STRONG_STUDENT, STRONG_TEACHER = (RNG.normal(size=(SIZE, CLASSES)) * 3 for _ in range(4))
LABELS = RNG.integers(0, CLASSES, SIZE)
EXACT = {"rel": 1e-9, "abs": 1e-12}


def signals(weak: Matrix, strong: Matrix, width: int) -> Signals:
    """Signals with these logits for weakly and strongly augmented images."""
    pooled_BC = torch.zeros(SIZE, width, dtype=torch.float64)
    return Signals(torch.from_numpy(weak), pooled_BC, strong=Signals(torch.from_numpy(strong), pooled_BC))


def batch(epoch: int = 1) -> Batch:
    """The eight images."""
    rows_B = torch.arange(SIZE)
    return Batch(torch.from_numpy(LABELS), rows_B, rows_B, epoch, torch.Generator())


def found(name: str, epoch: int = 1, **settings: Any) -> dict[str, float]:
    """The terms of a method on the eight images."""
    teacher = signals(TEACHER, STRONG_TEACHER, TEACHER_DIM)
    assert teacher.strong is not None
    target = replace(Target.of(teacher), strong=Target.of(teacher.strong))
    terms = method(name, **settings).double().terms(signals(STUDENT, STRONG_STUDENT, STUDENT_DIM), target, batch(epoch))
    return {term: float(value.detach()) for term, value in terms.items()}


def softmax(logits: Matrix, temperature: float) -> Matrix:
    """Probabilities of one or more images."""
    powers = np.exp(logits / temperature)
    sums: Matrix = powers / powers.sum(axis=-1, keepdims=True)
    return sums


def scaled(logits: Matrix, standardize: bool) -> Matrix:
    """(z - mean) / (std + 1e-7) over the classes, with the standard deviation of a sample."""
    if not standardize:
        return logits
    return np.stack([(row - row.mean()) / (1e-7 + row.std(ddof=1)) for row in logits])


def kl(wanted: Matrix, got: Matrix) -> float:
    """KL of one pair of distributions."""
    return sum(float(p * np.log(p / q)) for p, q in zip(wanted, got, strict=True))


def both(at: float, standardize: bool) -> tuple[Matrix, Matrix]:
    """Tempered probabilities of teacher and student."""
    return softmax(scaled(TEACHER, standardize), at), softmax(scaled(STUDENT, standardize), at)


every_scale = pytest.mark.parametrize("standardize", [False, True])


@every_scale
@pytest.mark.parametrize("at", [1.0, 2.5])
def test_kd(at: float, standardize: bool) -> None:
    p, q = both(at, standardize)
    expected = at**2 * np.mean([kl(p[b], q[b]) for b in range(SIZE)])
    assert found("kd", temperature=at, standardize=standardize) == pytest.approx({"kd": expected}, **EXACT)


@every_scale
def test_dkd(standardize: bool) -> None:
    at = 2.5
    p, q = both(at, standardize)
    tckd, nckd = [], []
    for b, y in enumerate(LABELS):
        tckd.append(kl(np.array([p[b, y], 1 - p[b, y]]), np.array([q[b, y], 1 - q[b, y]])))
        others = np.delete(np.arange(CLASSES), y)
        nckd.append(kl(p[b, others] / (1 - p[b, y]), q[b, others] / (1 - q[b, y])))
    expected = {"tckd": at**2 * np.mean(tckd), "nckd": at**2 * np.mean(nckd)}
    assert found("dkd", temperature=at, standardize=standardize) == pytest.approx(expected, **EXACT)


@every_scale
@pytest.mark.parametrize("at", [1.0, 4.0])
def test_dist(at: float, standardize: bool) -> None:
    p, q = both(at, standardize)
    rows = [np.corrcoef(p[b], q[b])[0, 1] for b in range(SIZE)]
    columns = [np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(CLASSES)]
    expected = {"inter": at**2 * (1 - np.mean(rows)), "intra": at**2 * (1 - np.mean(columns))}
    # the published 1e-8 in the denominator is the only difference
    assert found("dist", temperature=at, standardize=standardize) == pytest.approx(expected, rel=1e-5)


@every_scale
def test_nkd(standardize: bool) -> None:
    at = 3.0
    p, q = both(1.0, standardize)
    p_soft, q_soft = both(at, standardize)
    label, others = [], []
    for b, y in enumerate(LABELS):
        label.append(-p[b, y] * np.log(q[b, y]))
        rest = [c for c in range(CLASSES) if c != y]
        p_rest, q_rest = p_soft[b, rest] / p_soft[b, rest].sum(), q_soft[b, rest] / q_soft[b, rest].sum()
        others.append(-sum(p_rest * np.log(q_rest)))
    expected = {"label": np.mean(label), "others": at**2 * np.mean(others)}
    assert found("nkd", temperature=at, standardize=standardize) == pytest.approx(expected, **EXACT)


@every_scale
def test_wsld(standardize: bool) -> None:
    at = 2.0
    p, q = both(1.0, standardize)
    p_soft, q_soft = both(at, standardize)
    total = 0.0
    for b, y in enumerate(LABELS):
        behind = -np.log(q[b, y]) / (-np.log(p[b, y]) + 1e-7)
        weight = 1 - np.exp(-behind)
        total += weight * -sum(p_soft[b] * np.log(q_soft[b]))
    expected = at**2 * total / SIZE
    assert found("wsld", temperature=at, standardize=standardize) == pytest.approx({"wsld": expected}, **EXACT)


@every_scale
def test_ctkd(standardize: bool) -> None:
    at = 1 + 20 / (1 + np.exp(-1.0))
    p, q = both(at, standardize)
    expected = at**2 * np.mean([kl(p[b], q[b]) for b in range(SIZE)])
    assert found("ctkd", standardize=standardize) == pytest.approx({"kd": expected}, **EXACT)


@every_scale
@pytest.mark.parametrize("at", [1.0, 4.0])
def test_pld(at: float, standardize: bool) -> None:
    z, t = scaled(STUDENT, standardize), scaled(TEACHER, standardize)
    total = 0.0
    for b, y in enumerate(LABELS):
        order = [y, *sorted(set(range(CLASSES)) - {y}, key=lambda c, row=b: -t[row, c])]
        alpha = softmax(t[b], at)[order]
        for k in range(CLASSES):
            remaining = sum(np.exp(z[b, order[j]]) for j in range(k, CLASSES))
            total += alpha[k] * (np.log(remaining) - z[b, order[k]])
    assert found("pld", temperature=at, standardize=standardize) == pytest.approx({"pld": total / SIZE}, **EXACT)


def correlations(wanted: Matrix, got: Matrix, rows: Matrix) -> float:
    """Sum over pairs of rows of the squared difference of their dot products, over the number of rows."""
    count, total = len(wanted), 0.0
    for i in range(count):
        for j in range(count):
            total += rows[i] * (wanted[i] @ wanted[j] - got[i] @ got[j]) ** 2
    return total / count


def mlkd_terms(variant: str, temperatures: tuple[float, ...], standardize: bool) -> dict[str, float]:
    """Every term of a variant."""
    p = softmax(TEACHER, 1.0)
    images = (p.max(axis=1) <= np.percentile(p.max(axis=1), 50)).astype(float)
    classes = (p.sum(axis=0) <= np.percentile(p.sum(axis=0), 50)).astype(float)
    all_images, all_classes = np.ones(SIZE), np.ones(CLASSES)
    assert images.mean() == 0.5
    assert classes.mean() == pytest.approx(4 / 7)
    terms: dict[str, float] = dict.fromkeys(
        ("instance", "instance_strong", "class", "batch", "class_strong", "batch_strong"), 0.0
    )
    for index, at in enumerate(temperatures):
        weak = softmax(scaled(TEACHER, standardize), at), softmax(scaled(STUDENT, standardize), at)
        strong = softmax(scaled(STRONG_TEACHER, standardize), at), softmax(scaled(STRONG_STUDENT, standardize), at)
        plain = softmax(TEACHER, at), softmax(STUDENT, at)
        plain_strong = softmax(STRONG_TEACHER, at), softmax(STRONG_STUDENT, at)
        divergences = np.array([kl(weak[0][b], weak[1][b]) for b in range(SIZE)])
        strong_divergences = np.array([kl(strong[0][b], strong[1][b]) for b in range(SIZE)])
        if variant == "released":
            terms["instance"] += at**2 * divergences.mean() * images.mean()
            terms["instance_strong"] += at**2 * (divergences if index >= 3 else strong_divergences).mean()
            terms["class"] += correlations(plain[0].T, plain[1].T, all_classes) * classes.mean()
            terms["batch"] += correlations(*plain, all_images) * images.mean()
        else:
            terms["instance"] += at**2 * (divergences * images).mean()
            terms["instance_strong"] += at**2 * strong_divergences.mean()
            terms["class"] += correlations(plain[0].T, plain[1].T, classes)
            terms["batch"] += correlations(*plain, images)
            terms["class_strong"] += correlations(plain_strong[0].T, plain_strong[1].T, all_classes)
            terms["batch_strong"] += correlations(*plain_strong, images)
    if variant == "released":
        del terms["class_strong"], terms["batch_strong"]
    strong_q = softmax(STRONG_STUDENT, 1.0)
    return {**terms, "ce_strong": float(np.mean([-np.log(strong_q[b, y]) for b, y in enumerate(LABELS)]))}


@every_scale
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_mlkd(variant: str, standardize: bool) -> None:
    temperatures = (2.0 if standardize else 4.0, 3.0, 5.0, 2.0, 6.0)
    expected = mlkd_terms(variant, temperatures, standardize)
    assert found("mlkd", variant=variant, standardize=standardize) == pytest.approx(expected, **EXACT)
