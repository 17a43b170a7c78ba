"""Numbers that the published implementations returned for feature and relation losses and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from akdtune.methods.at import attention_loss
from akdtune.methods.crd import contrastive_loss, log_partition, log_scores_BS
from akdtune.methods.nst import maximum_mean_discrepancy
from akdtune.methods.ofd import partial_l2
from akdtune.methods.pkt import neighbour_divergence
from akdtune.methods.reviewkd import hierarchical_context_loss
from akdtune.methods.rkd import angle_loss, distance_loss
from akdtune.methods.sp import similarity_loss
from akdtune.methods.vid import negative_log_likelihood

RECORDED = np.load(Path(__file__).parent / "feature_losses.npz")


class Inputs(dict[str, Tensor]):
    """A case's inputs by name; those with a recorded gradient require one."""

    def __init__(self, case: str, dtype: torch.dtype) -> None:
        super().__init__()
        for key in RECORDED.files:
            if key.startswith(f"{case}/in/"):
                name, tensor = key.split("/")[-1], torch.from_numpy(RECORDED[key])
                tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
                self[name] = tensor.requires_grad_(f"{case}/grad/{name}" in RECORDED.files)

    def stages(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Sum of a loss over all recorded stages."""
        numbers = range(1, 1 + sum(name.startswith("student_stage") for name in self))
        return torch.stack([loss(self[f"student_stage{n}"], self[f"teacher_stage{n}"]) for n in numbers]).sum()


def rkd(given: Inputs) -> Tensor:
    features = given["student_feature"], given["teacher_feature"]
    return 25 * distance_loss(*features) + 50 * angle_loss(*features)


def vid(given: Inputs) -> Tensor:
    return negative_log_likelihood(given["predicted_mean"], given["teacher_stage"], given["log_scale"], 1e-5)


def crd(given: Inputs) -> Tensor:
    index_BS = given["contrast_index"]
    losses = []
    for embedding, bank in (("student_embedding", "memory_teacher"), ("teacher_embedding", "memory_student")):
        log_z = log_partition(log_scores_BS(given[embedding].detach(), given[bank], index_BS, 0.07), 40)
        losses.append(contrastive_loss(given[embedding], given[bank], index_BS, log_z, 0.07))
    return losses[0] + losses[1]


LOSSES: dict[str, Callable[[Inputs], Tensor]] = {
    "rkd": rkd,
    "pkt": lambda given: neighbour_divergence(given["student_feature"], given["teacher_feature"]),
    "at": lambda given: given.stages(lambda student, teacher: attention_loss(student, teacher, 2)),
    "nst": lambda given: given.stages(maximum_mean_discrepancy),
    "sp": lambda given: similarity_loss(given["student_stage"], given["teacher_stage"]),
    "reviewkd_hcl": lambda given: given.stages(hierarchical_context_loss),
    "ofd_partial_l2": lambda given: partial_l2(given["student_stage"], given["teacher_stage"], given["margin"][0]),
    "vid_nll": vid,
    "crd_nce": crd,
}


def worst_error(found: Tensor, expected: Tensor) -> float:
    """Largest error as a share of the largest value."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", LOSSES)
def test_loss_and_gradients(case: str, dtype: torch.dtype, tolerance: float) -> None:
    given = Inputs(case, dtype)
    loss = LOSSES[case](given)
    assert loss.dtype == dtype
    assert worst_error(loss.detach(), torch.from_numpy(RECORDED[f"{case}/loss"])) <= tolerance
    loss.backward()
    with_gradient = [name for name, tensor in given.items() if tensor.requires_grad]
    assert with_gradient
    for name in with_gradient:
        gradient = given[name].grad
        assert gradient is not None
        assert worst_error(gradient, torch.from_numpy(RECORDED[f"{case}/grad/{name}"])) <= tolerance, name


def test_every_recorded_case_is_used() -> None:
    assert {key.split("/")[0] for key in RECORDED.files} == set(LOSSES)
