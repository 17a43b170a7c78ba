"""FedFD: a projection for each kind of target, orthogonal while it trains."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from akdtune.methods.fedfd import FedFD, projected_mse, projection_error
from akdtune.settings.training import TrainingSettings
from akdtune.signals import Target
from akdtune.training.optimizers import sgd
from tests import small_world
from tests.small_world import OTHERS_DIMS, STUDENT_DIM, TEACHER_DIM, batch, signals


def built(**settings: object) -> FedFD:
    method = small_world.method("fedfd", OTHERS_DIMS, **settings)
    assert isinstance(method, FedFD)
    return method


def test_error_of_a_projection_by_hand() -> None:
    assert float(projection_error(torch.eye(2, 5))) == 0.0
    assert float(projection_error(torch.eye(5, 2))) == 0.0
    assert float(projection_error(torch.tensor([[1.0, 0.0], [0.0, 1.5]]))) == pytest.approx(1.25)


def test_formula_with_the_projection_of_the_kind_of_target() -> None:
    method, student = built(projection="linear"), signals(1, STUDENT_DIM)
    for place, width in enumerate(OTHERS_DIMS):
        teacher = torch.randn(len(student.pooled_BC), width, generator=torch.Generator().manual_seed(place))
        target = Target(student.logits_BK[:, None], teacher[:, None], torch.ones(1), place=place)
        expected = (student.pooled_BC @ method.projections[place].weight.T - teacher).square().mean()
        torch.testing.assert_close(method.terms(student, target, batch())["fedfd"], expected)
    assert float(projected_mse(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]]))) == 2.5


def test_normalised_features_have_no_scale() -> None:
    method, student, teacher = built(normalize=True), signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    larger = replace(teacher, pooled_BC=7 * teacher.pooled_BC + 3)
    plain, scaled = (method.terms(student, Target.of(of), batch())["fedfd"] for of in (teacher, larger))
    torch.testing.assert_close(plain, scaled, rtol=1e-3, atol=1e-5)


def test_projections_stay_orthogonal_while_they_train() -> None:
    """With weight decay, too, under which torch's Householder reflections lose rows."""
    student, teacher = signals(1, STUDENT_DIM), signals(2, TEACHER_DIM)
    for projection in ("orthogonal", "linear"):
        method = built(projection=projection)
        assert method.measures()["projection_error"] < 1e-5  # both begin orthogonal
        before = method.projections[0].weight.detach().clone()
        optimizer = sgd(method.parameters(), TrainingSettings(lr=0.5, weight_decay=0.01))
        for _ in range(30):
            optimizer.zero_grad()
            method.terms(student, Target.of(teacher), batch())["fedfd"].backward()
            optimizer.step()
        assert not torch.allclose(method.projections[0].weight, before, atol=1e-2)
        assert (method.measures()["projection_error"] < 1e-5) is (projection == "orthogonal")


def test_state_goes_on() -> None:
    first, second = built(), built()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1)
    second.load_state_dict(first.state_dict())
    for mine, theirs in zip(first.projections, second.projections, strict=True):
        assert torch.equal(mine.weight, theirs.weight)
