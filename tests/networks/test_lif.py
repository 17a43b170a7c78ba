"""Spiking networks: neurons by hand, the rate pass beside backpropagation through time, coding, answers, refusals."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from akdtune import networks
from akdtune.errors import AkdtuneError, SettingsError
from akdtune.networks._spiking import Neuron, RatePass, SpikePass, SpikingSettings, brightness, drawn_by, slope
from akdtune.networks.lif import Lif, LifResNet18
from akdtune.registry import settings_given
from akdtune.settings.trial import trial_settings
from akdtune.signals import InputSpec, Signals

DIGITS, SMALL = InputSpec(1, 8, 10), InputSpec(3, 12, 5)


def lif(seed: int = 0, **settings: Any) -> Lif:
    built = networks.build({"name": "lif", "widths": [12, 9], **settings}, DIGITS, seed)
    assert isinstance(built, Lif)
    return built.train()


def images(inputs: InputSpec = DIGITS, number: int = 6) -> Tensor:
    shape = number, inputs.channels, inputs.size, inputs.size
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def gradients(network: networks.Network, images_BCHW: Tensor) -> dict[str, Tensor]:
    """Of a loss that reads every output, after one forward pass in training mode."""
    said = network(images_BCHW)
    labels_B = torch.arange(len(images_BCHW)) % said.logits_BK.shape[1]
    loss = nn.functional.cross_entropy(said.logits_BK, labels_B) + said.pooled_BC.square().sum()
    if said.answers_BJK is not None and said.answer == "branch":
        loss = loss + said.answers_BJK.square().mean()
    loss.backward()
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


def test_neurons_by_hand() -> None:
    """decay .5, threshold 1, a steady current of .8: potentials .8, 1.2 (a spike, .2 is left), .9."""
    neuron, run = Neuron(SpikingSettings(decay=0.5)), SpikePass(keeping=True)
    current = torch.full((1, 1), 0.8)
    assert [float(neuron(current, run)) for _ in range(3)] == [0.0, 1.0, 0.0]
    of = run.fired[neuron]
    assert float(of.rate) == pytest.approx(1 / 3)
    assert float(of.membrane) == pytest.approx(0.9)
    slopes = slope(torch.tensor([-0.2, 0.2, -0.1]), "sigmoid")
    s = torch.sigmoid(4 * torch.tensor([-0.2, 0.2, -0.1]))
    torch.testing.assert_close(slopes, 4 * s * (1 - s))
    assert float(of.eligibility) == pytest.approx(float(slopes @ torch.tensor([1.0, 1.5, 1.75])) / 3)
    assert of.gain == 1.875, "1 + .5 * 1.75"


def test_slopes() -> None:
    excess = torch.tensor([-1.0, -0.4, 0.0, 0.4, 1.0])
    assert slope(excess, "rectangle").tolist() == [0, 1, 1, 1, 0]
    assert float(slope(excess, "sigmoid")[2]) == 1.0


def test_a_rate_has_the_value_of_the_spikes_and_the_derivative_of_the_eligibility() -> None:
    neuron, spiking = Neuron(SpikingSettings(steps=4)), SpikePass(keeping=True)
    current = torch.tensor([[0.3, 0.9, 1.4]], requires_grad=True)
    with torch.no_grad():
        spikes = [neuron(current, spiking) for _ in range(4)]
    rates = neuron(current, RatePass(spiking))
    torch.testing.assert_close(rates, torch.stack(spikes).mean(dim=0))
    (gradient,) = torch.autograd.grad(rates.sum(), current)
    torch.testing.assert_close(gradient, spiking.fired[neuron].eligibility)


@pytest.mark.parametrize(
    "settings",
    [
        {"branches": 1},
        {"norm": False, "threshold": 0.5},
        {"surrogate": "rectangle", "decay": 0.5},
        {"coding": "bernoulli"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_one_step_of_rates_is_backpropagation_through_time(settings: dict[str, Any]) -> None:
    pytest.importorskip("snntorch")

    def of(gradient: str) -> dict[str, Tensor]:
        torch.manual_seed(3)
        return gradients(lif(steps=1, gradient=gradient, **settings), images())

    by_rate, through_time = of("rate"), of("bptt")
    assert by_rate.keys() == through_time.keys()
    assert all(bool(gradient.any()) for name, gradient in by_rate.items() if not name.endswith("bias"))
    for name, gradient in by_rate.items():
        torch.testing.assert_close(gradient, through_time[name], rtol=1e-4, atol=1e-6)


def test_one_step_of_rates_through_a_residual_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("snntorch")
    monkeypatch.setattr(LifResNet18, "blocks", (1, 1, 1, 1))

    def of(gradient: str) -> dict[str, Tensor]:
        built = networks.build({"name": "lif_resnet18", "steps": 1, "gradient": gradient, "branches": 3}, SMALL, 0)
        return gradients(built.train(), images(SMALL, 3))

    by_rate, through_time = of("rate"), of("bptt")
    assert by_rate.keys() == through_time.keys() and "exits.2.0.weight" in by_rate
    for name, gradient in by_rate.items():
        assert float((gradient - through_time[name]).norm()) < 1e-3 * float(through_time[name].norm()), name


def test_both_gradients_have_the_values_of_the_same_steps() -> None:
    pytest.importorskip("snntorch")
    by_rate, through_time = lif(steps=5), lif(steps=5, gradient="bptt")
    plain = copy.deepcopy(by_rate)
    for name, value in through_time(images()).__dict__.items():
        if name in ("logits_BK", "pooled_BC"):
            torch.testing.assert_close(getattr(by_rate(images()), name), value)
    plain.load_state_dict(by_rate.state_dict())
    assert [name for name, _ in by_rate.named_buffers()] == [name for name, _ in through_time.named_buffers()]


def kept_bytes(work: Callable[[], Signals]) -> int:
    """Bytes of all different tensors that a forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        said = work()
        assert said.logits_BK.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("coding", ["direct", "bernoulli"])
def test_what_rates_keep_does_not_grow_with_the_steps(coding: str) -> None:
    few, many = (lif(steps=steps, coding=coding, branches=1) for steps in (2, 16))
    assert kept_bytes(lambda: few(images())) == kept_bytes(lambda: many(images())) > 0


def test_what_backpropagation_through_time_keeps_grows() -> None:
    pytest.importorskip("snntorch")
    few, many = (lif(steps=steps, gradient="bptt") for steps in (2, 16))
    assert kept_bytes(lambda: many(images())) > 5 * kept_bytes(lambda: few(images()))


def test_snntorch_keeps_none_of_our_neurons() -> None:
    spiking = pytest.importorskip("snntorch")
    before = list(spiking.SpikingNeuron.instances)
    gradients(lif(steps=2, gradient="bptt"), images())
    assert spiking.SpikingNeuron.instances == before


def test_running_statistics_are_those_of_the_steps_alone() -> None:
    """The rate pass moves nothing; one step moves them as a BatchNorm does."""
    network = lif(steps=1)
    current = network.layers[0](images().flatten(1))
    gradients(network, images())
    torch.testing.assert_close(network.norms[0].running_mean, 0.1 * current.mean(dim=0).detach())


def test_spikes_are_drawn_in_training_alone() -> None:
    assert networks.draws(lif(coding="bernoulli"), DIGITS)
    assert not networks.draws(lif(), DIGITS)
    network = lif(coding="bernoulli", steps=3)
    with torch.no_grad():
        torch.manual_seed(0)
        first, second = network(images()), network(images())
        torch.manual_seed(0)
        again = network.train()(images())
        assert not torch.equal(first.pooled_BC, second.pooled_BC)
        network.eval()
        before = torch.get_rng_state()
        whole, part = network(images()), network(images()[2:4])
    assert again.pooled_BC.shape == first.pooled_BC.shape
    assert torch.equal(whole.logits_BK[2:4], part.logits_BK), "an answer depends on no other row"
    assert torch.equal(before, torch.get_rng_state())


def test_pixels_are_spikes_with_their_brightness_as_probability() -> None:
    network = lif(coding="bernoulli", steps=1024)
    ramp_BCHW = torch.linspace(-2.0, 6.0, 64).reshape(1, 1, 8, 8)
    torch.testing.assert_close(brightness(ramp_BCHW).flatten(), torch.linspace(0, 1, 64))
    assert torch.equal(brightness(torch.full((1, 1, 8, 8), 3.0)), torch.zeros(1, 1, 8, 8)), "of one shade: never"
    for mode in (True, False):
        network.train(mode)
        torch.manual_seed(0)
        rates = torch.stack(list(network.coded(ramp_BCHW))).mean(dim=0).flatten()
        torch.testing.assert_close(rates, torch.linspace(0, 1, 64), rtol=0, atol=0.06)
        assert rates[0] == 0 and rates[-1] == 1


def test_drawn_numbers_follow_from_image_and_words() -> None:
    words_CHW = torch.randint(-(2**62), 2**62, (1, 8, 8), generator=torch.Generator().manual_seed(0))
    shades = brightness(images(number=400))
    drawn_BCHW = drawn_by(shades, words_CHW)
    assert torch.equal(drawn_by(shades[7:9], words_CHW), drawn_BCHW[7:9])
    assert float(drawn_BCHW.min()) >= 0 and float(drawn_BCHW.max()) < 1
    assert float(drawn_BCHW.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(drawn_BCHW.std()) == pytest.approx(12**-0.5, abs=0.01)
    assert float(torch.corrcoef(drawn_BCHW.flatten(1))[0, 1:].abs().max()) < 0.6, "images draw apart"


def test_answers_of_steps() -> None:
    with torch.no_grad():
        said = lif(steps=4, norm=False).eval()(images())
    assert said.answer == "step" and said.answers_BJK.shape == (6, 4, 10)
    torch.testing.assert_close(said.answers_BJK.mean(dim=1), said.logits_BK)
    assert lif(steps=4)(images()).answers_BJK is None, "rates have one answer"
    assert lif(steps=1).eval()(images()).answers_BJK is None


def test_answers_of_exits() -> None:
    said = lif(branches=1)(images())
    assert said.answer == "branch" and said.answers_BJK.shape == (6, 2, 10)
    assert torch.equal(said.answers_BJK[:, -1], said.logits_BK)
    gradient = torch.autograd.grad(said.answers_BJK[:, 0].sum(), said.answers_BJK, retain_graph=True)[0]
    assert gradient.shape == (6, 2, 10)


def test_stage_maps_of_the_residual_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LifResNet18, "blocks", (1, 1, 1, 1))
    network = networks.build({"name": "lif_resnet18", "steps": 2, "branches": 3}, SMALL, 0).train()
    said = network(images(SMALL, 3), True)
    assert tuple(tuple(stage.shape[1:]) for stage in said.stages) == network.stage_shapes
    assert said.answers_BJK.shape == (3, 4, 5)
    torch.testing.assert_close(said.last_map.mean(dim=(2, 3)), said.pooled_BC)
    (gradient,) = torch.autograd.grad(said.stages[2].sum(), network.conv1.weight)
    assert bool(gradient.any())


def test_more_exits_than_stages_before_the_last_are_refused() -> None:
    with pytest.raises(AkdtuneError, match=r"network lif: branches: .*, got 2 \(allowed: at most 1\)"):
        lif(branches=2)


def test_without_snntorch_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r'snntorch, which is not installed: pip install "akdtune\[spiking\]"'):
        settings_given(Lif, {"gradient": "bptt"})
    assert settings_given(Lif, {}).gradient == "rate"


STUDENT = {"views": {"name": "none"}, "training": {}}
ALONE = {"data": {"name": "digits"}, "teacher": {"network": "none"}}


def issues(method: str, network: Any, study: dict[str, Any] = ALONE) -> list[str]:
    written = {**STUDENT, "method": {"name": method}, "student": {"network": network}}
    return [message for _, message in trial_settings(written, study)[1]]


@pytest.mark.parametrize("method", ["time_self", "branch_self"])
def test_methods_that_need_answers_are_refused_without(method: str) -> None:
    said = f"'{method}' cannot work with the student network"
    assert issues(method, "cnn") == [f"{said} 'cnn': it needs answers, which it lacks"]
    assert issues(method, {"name": "lif"}) == [f"{said} 'lif': it needs answers, which it lacks as it is set"]
    assert issues(method, {"name": "lif", "branches": 1}) == []


def test_answers_are_asked_of_no_teacher() -> None:
    taught = {**ALONE, "teacher": {"network": {"name": "cnn"}}}
    assert issues("branch_self", {"name": "lif", "branches": 1}, taught) == []


def steps_of_training(network: networks.Network, steps: int) -> Iterator[float]:
    """Losses of training on eight images of large patches, which the network can learn by heart."""
    patches_BCHW = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images_BCHW = nn.functional.interpolate(patches_BCHW, scale_factor=8)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(network(images_BCHW).logits_BK, torch.arange(8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield float(loss.detach())


@pytest.mark.slow
def test_the_residual_network_trains_on_images_of_cifar_size() -> None:
    network = networks.build({"name": "lif_resnet18", "steps": 4}, InputSpec(3, 32, 10), 0).train()
    losses = list(steps_of_training(network, 12))
    assert losses[-1] < 0.5 * losses[0], losses
