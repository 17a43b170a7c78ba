"""A replica: the same trial in exact arithmetic, its batches summed in another order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from akdtune import networks
from akdtune.errors import AkdtuneError
from akdtune.settings.data import DataSettings
from akdtune.settings.training import Seeds
from akdtune.signals import InputSpec, Nodes, Signals, Tokens
from akdtune.training.config import TrialConfig
from akdtune.training.graphs import StepInputs
from akdtune.training.request import trial_seeds
from akdtune.training.row_order import InOtherOrder
from akdtune.training.trial import Trial
from tests.small_trials import ANGULAR, DIGITS, configured, numbers, trained

SMALL = {**DIGITS, "validation": 300, "limit_per_class": 60}
DATA = DataSettings(**SMALL)
MIXED = {"mixup": 1.0, "cutmix": 1.0}
NONE, TEKAP, OWN = {"name": "none"}, {"name": "tekap"}, {**ANGULAR, "warmup_epochs": 1}
CASES: dict[str, tuple[Mapping[str, Any], list[str], dict[str, Any]]] = {
    "angular-kd+crd": (OWN, ["kd", "crd"], {}),
    "tekap-dkd": (TEKAP, ["dkd"], {}),
    "none-reviewkd": (NONE, ["reviewkd"], {}),
    "none-mlkd": (NONE, ["mlkd"], {}),
    "dropout-kd+rkd": ({"name": "dropout"}, ["kd", "rkd"], {}),
    "none-simkd": (NONE, ["simkd"], {}),
    "none-student_only": (NONE, ["student_only"], {}),
    "none-last_batch": (NONE, ["last_batch"], {}),
    "tekap-kd-mixed": (TEKAP, ["kd"], {"data": DataSettings(**SMALL, augmentation=MIXED)}),
    "none-kd-dot": (NONE, ["kd"], {"optimizer": "dot"}),
}


def config(case: str, rounding: int, **training: Any) -> TrialConfig:
    views, methods, more = CASES[case]
    data = more.get("data", DATA)
    settings = {"epochs": 1, **{key: value for key, value in more.items() if key != "data"}, **training}
    named = [{"name": name} for name in methods]
    return configured(data, trained(DATA), views, named, changes={"seeds": Seeds(rounding=rounding)}, **settings)


def first_step(case: str, rounding: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of the first step in float64, the terms of its loss, and everything that the step left behind."""
    trial = Trial(config(case, rounding))
    trial.student.double().train()
    trial.objective.double().train()
    inputs = next(iter(trial._batches("student", 1, lambda: False)))
    inputs = StepInputs(*(_double(part) for part in vars(inputs).values()))
    values = trial._student_step(inputs)
    named = {**dict(trial.student.named_parameters()), **dict(trial.objective.named_parameters(prefix="objective"))}
    gradients = {name: value.grad for name, value in named.items() if value.grad is not None}
    left = {**trial.student.state_dict(), **trial.objective.state_dict(prefix="objective.")}
    return gradients, values, {name: value.clone() for name, value in left.items()}


def _double(part: Any) -> Any:
    """A tensor or signals in float64; anything else as it is."""
    if isinstance(part, Signals):
        said = {name: _double(value) for name, value in vars(part).items()}
        return Signals(**said)
    if isinstance(part, tuple):
        return tuple(_double(item) for item in part)
    return part.double() if isinstance(part, Tensor) and part.is_floating_point() else part


@pytest.mark.parametrize("case", CASES)
def test_the_first_step_is_the_bases_up_to_rounding(case: str) -> None:
    """In float64, where rounding is 1e-16 and another noise, negative or partner would show at once."""
    base, replica, again = (first_step(case, rounding) for rounding in (0, 1, 1))
    for ours, theirs, same in zip(base, replica, again, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-9, atol=1e-12, msg=name)
            assert torch.equal(theirs[name], same[name]), name
    assert base[0] or "dot" in case, "dot keeps momentums and no gradient"
    tensors = [{**of[0], **of[2]} for of in (base, replica)]
    assert any(not torch.equal(tensors[1][name], value) for name, value in tensors[0].items())


@pytest.mark.parametrize("case", CASES)
def test_an_epoch_differs_a_little_and_a_replica_repeats_itself(case: str) -> None:
    base, replica, again, other = (Trial(config(case, rounding)) for rounding in (0, 1, 1, 2))
    epochs = [list(trial.run()) for trial in (base, replica, again, other)]
    assert numbers(epochs[1]) == numbers(epochs[2]) != numbers(epochs[0])
    states = [trial.student.state_dict() for trial in (base, replica, again, other)]
    assert all(torch.equal(states[1][name], states[2][name]) for name in states[0])
    moved = {name: float((states[1][name] - value).abs().max()) for name, value in states[0].items() if value.ndim}
    assert 0 < max(moved.values()) < 1e-2, moved
    assert any(not torch.equal(states[1][name], states[3][name]) for name in states[0]), "another rounding"
    warmups = [[epoch.row["loss.views.ground_truth"] for epoch in of if epoch.stage == "warmup"] for of in epochs]
    assert all(rows == warmups[0] for rows in warmups), "the heads' warm-up is the base's"


def test_rounding_zero_is_the_trial_itself() -> None:
    of = config("angular-kd+crd", 0)
    assert Trial(of)._forward is not None and not isinstance(Trial(of)._forward, InOtherOrder)
    assert trial_seeds(7) == {"init": 7, "order": 7, "noise": 7}, "a request without it is as it was"
    assert trial_seeds(7, {"rounding": 1}) == {"init": 7, "order": 7, "noise": 7, "rounding": 1}


def test_a_replica_resumes_in_bf16_too() -> None:
    for precision in ("fp32", "bf16"):
        of = config("angular-kd+crd", 1, epochs=2, precision=precision)
        whole = list(Trial(of).run())
        assert numbers(list(Trial(of).run(whole[1].state))) == numbers(whole)[2:]
        assert numbers(whole) != numbers(list(Trial(config("angular-kd+crd", 0, epochs=2, precision=precision)).run()))


def test_signals_come_back_in_the_order_of_the_batch() -> None:
    seen: list[Tensor] = []

    def forward(images_BCHW: Tensor, maps: bool) -> Signals:
        seen.append(images_BCHW[:, 0, 0, 0])
        flat_BC = images_BCHW.flatten(1)
        stages = (images_BCHW, images_BCHW + 1) if maps else None
        return Signals(flat_BC, flat_BC * 2, stages, stages, stages and stages[0], (flat_BC[:1], flat_BC[0]))

    images_BCHW = torch.arange(9.0).reshape(9, 1, 1, 1).expand(9, 1, 2, 2)
    network = InOtherOrder(forward, 1)
    for maps in (True, False):
        said, plain = network(images_BCHW, maps), forward(images_BCHW, maps)
        assert torch.equal(said.logits_BK, plain.logits_BK) and torch.equal(said.pooled_BC, plain.pooled_BC)
        for ours, theirs in zip(said.stages or (), plain.stages or (), strict=True):
            assert torch.equal(ours, theirs)
    assert sorted(seen[0].tolist()) == list(range(9)) and not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2]), "one order for each number of rows: a recorded step may hold it"
    for size in (1, 2, 3):  # the identity would be no replica
        network(images_BCHW[:size], False)
        assert (seen[-1].tolist() != list(range(size))) is (size > 1)


def test_a_network_that_draws_is_refused() -> None:
    inputs = InputSpec(3, 32, 10)
    said = {name: networks.draws(networks.build(name, inputs, 0), inputs) for name in ("cnn", "resnet8x4", "wrn_16_1")}
    assert not any(said.values())
    dropping = networks.build("torchvision_mobilenet_v2", inputs, 0)
    state = {name: value.clone() for name, value in dropping.state_dict().items()}
    random = torch.get_rng_state()
    assert networks.draws(dropping, inputs)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in dropping.state_dict().items())
    of = configured(DATA, trained(DATA), NONE, [{"name": "kd"}], student="torchvision_mobilenet_v2")
    Trial(of)
    with pytest.raises(AkdtuneError, match=r"seeds\.rounding: the student 'torchvision_mobilenet_v2' draws random"):
        Trial(TrialConfig(**{**vars(of), "seeds": Seeds(rounding=1)}))


def test_nodes_and_tokens_are_answered_in_their_own_order() -> None:
    """A network that says which row it was asked about, and where in the batch it stood."""
    asked: list[Any] = []

    def of_nodes(nodes: Nodes, maps: bool) -> Signals:
        asked.append(nodes.rows_R)
        return Signals(nodes.features_NF[nodes.rows_R], nodes.features_NF[nodes.rows_R])

    nodes = Nodes(torch.arange(20.0).unsqueeze(1), torch.zeros(2, 0, dtype=torch.int64), torch.arange(3, 15))
    assert torch.equal(InOtherOrder(of_nodes, 1)(nodes, False).logits_BK[:, 0], nodes.rows_R.float())
    assert sorted(asked[0].tolist()) == nodes.rows_R.tolist() != asked[0].tolist()

    def of_tokens(tokens: Tokens, maps: bool) -> Signals:
        asked.append(tokens.ids_BL[:, 0])
        rows_R1 = tokens.ids_BL[tokens.rows_BL].float().unsqueeze(1)
        return Signals(rows_R1, rows_R1)

    ids_BL = torch.arange(24).view(6, 4)
    tokens = Tokens(ids_BL, torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) < 0.6)
    said = InOtherOrder(of_tokens, 1)(tokens, False)
    assert torch.equal(said.logits_BK[:, 0], ids_BL[tokens.rows_BL].float())
    assert sorted(asked[1].tolist()) == ids_BL[:, 0].tolist() != asked[1].tolist()
