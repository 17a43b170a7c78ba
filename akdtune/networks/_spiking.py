"""What spiking networks share: leaky neurons, time steps, and the two ways a gradient gets through them.

`gradient: rate` runs all time steps without a gradient, keeping of each neuron its mean rate and how that rate answers
to a steady input, and then one pass of rates, in which the loss is differentiated: what is kept for the backward pass
does not grow with the steps. `gradient: bptt` keeps the graph of all steps.

References:
    Zhao, Yu, Yu, Liu and Wang, "Enhanced self-distillation framework for efficient spiking neural network training",
    NeurIPS 2025, arXiv 2510.06254: the spike pass, the eligibility, the rate pass.
    Neftci, Mostafa and Zenke, "Surrogate gradient learning in spiking neural networks", IEEE Signal Processing Magazine
    2019, arXiv 1901.09948: what stands for the derivative of a spike.

Shapes: B batch, T time steps, J answers, K classes, C channels or feature width, H, W; X whatever a layer returns.
"""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, field_validator
from torch import Tensor, nn
from typing_extensions import override

from akdtune.networks import Network
from akdtune.randomness import derived_seed
from akdtune.registry import ComponentSettings
from akdtune.signals import InputSpec, Signals

Surrogate = Literal["sigmoid", "rectangle"]

LARGEST = 2**62
"""Of random words."""

MIXER = 0x3F58476D1CE4E5B9
"""An odd number, so that products modulo 2^64 lose nothing; close to that of SplitMix64."""


class SpikingSettings(ComponentSettings):
    """Settings of every spiking network; the defaults are those of arXiv 2510.06254."""

    steps: int = Field(6, ge=1, le=1024, description="time steps T; the logits are the mean over them")
    gradient: Literal["rate", "bptt"] = Field(
        "rate",
        description="rate: one pass of rates is differentiated, whose memory does not grow with the steps; bptt: all"
        ' steps are, through snntorch (pip install "akdtune[spiking]")',
    )
    coding: Literal["direct", "bernoulli"] = Field(
        "direct",
        description="direct: the same image at every step; bernoulli: each pixel is 1 with its brightness as"
        " probability, else 0, drawn anew at every step",
    )
    branches: NonNegativeInt = Field(
        0,
        description="exits behind so many of the first stages, which are answers of their own beside the last layer's",
    )
    threshold: PositiveFloat = Field(1.0, description="membrane potential above which a neuron spikes")
    decay: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the membrane potential that is left at the next step (arXiv 2510.07924: 0.5)",
    )
    surrogate: Surrogate = Field(
        "sigmoid",
        description="derivative of a spike by the potential over the threshold x: sigmoid: 4 s (1 - s), s the logistic"
        " function of 4 x; rectangle: 1 within 0.5 of the threshold, else 0 (arXiv 2510.07924)",
    )

    @field_validator("gradient")
    @classmethod
    def _can_be_computed(cls, value: str) -> str:
        if value == "bptt" and importlib.util.find_spec("snntorch") is None:
            raise ValueError('bptt needs snntorch, which is not installed: pip install "akdtune[spiking]"')
        return value


def slope(excess: Tensor, surrogate: Surrogate) -> Tensor:
    """What stands for the derivative of a spike, by the membrane potential minus the threshold; same shape."""
    if surrogate == "rectangle":
        return (excess.abs() < 0.5).to(excess.dtype)
    risen = torch.sigmoid(4 * excess)
    return 4 * risen * (1 - risen)


def brightness(images_BCHW: Tensor) -> Tensor:
    """Pixels between the darkest (0) and the brightest (1) of their image, however it is normalised; [B, C, H, W]."""
    darkest_B111, brightest_B111 = (
        extreme((1, 2, 3), keepdim=True) for extreme in (images_BCHW.amin, images_BCHW.amax)
    )
    range_B111 = (brightest_B111 - darkest_B111).clamp_min(torch.finfo(images_BCHW.dtype).tiny)
    return (images_BCHW - darkest_B111) / range_B111


def drawn_by(brightness_BCHW: Tensor, words_CHW: Tensor) -> Tensor:
    """Numbers between 0 and 1 that look drawn, [B, C, H, W], and follow from each image and words (int64) alone."""
    shades_BCHW = (brightness_BCHW * 255).round().long()
    mixed = (shades_BCHW * (words_CHW | 1)).sum((1, 2, 3), keepdim=True) ^ words_CHW
    for _ in range(2):
        mixed = (mixed ^ (mixed >> 29)) * MIXER
    return ((mixed >> 32) & 0xFFFFFF) / 2**24


class Neuron(nn.Module):
    """Leaky integrate-and-fire neurons: u <- decay u + x, a spike where u > threshold, then u <- u - threshold there.

    Differs: spikes above the threshold, as in snntorch, not at it.
    """

    def __init__(self, settings: SpikingSettings) -> None:
        super().__init__()
        self.decay, self.threshold, self.surrogate = settings.decay, settings.threshold, settings.surrogate

    @override
    def forward(self, current: Tensor, run: Run) -> Tensor:
        """Spikes or rates, as the pass has them."""
        return run.fire(self, current)


class Run(Protocol):
    """One way through a network: a time step, or the rates of all."""

    def fire(self, neuron: Neuron, current: Tensor) -> Tensor:
        """What neurons send on when they receive a current."""
        ...

    def normalised(self, norm: nn.Module, current: Tensor) -> Tensor:
        """What a BatchNorm makes of a current."""
        ...


@dataclass
class Fired:
    """What a spike pass knows of the neurons of a layer after `steps` steps.

    Attributes:
        membrane: potential after the last reset.
        rate: mean of the spikes, r.
        eligibility: mean over steps of surrogate slope times `gain`, e: how the rate answers to a steady input.
        gain: how the potential answers to a steady input, a: 1, 1 + decay, 1 + decay + decay^2, ....
        steps: how many there were.
    """

    membrane: Tensor
    rate: Tensor
    eligibility: Tensor
    gain: float = 1.0
    steps: int = 0


class SpikePass:
    """Time steps without a gradient.

    Args:
        keeping: whether to keep what a `RatePass` needs.
    """

    def __init__(self, keeping: bool) -> None:
        self.keeping = keeping
        self.fired: dict[Neuron, Fired] = {}
        self.moments: dict[nn.Module, tuple[Tensor, Tensor, int]] = {}

    def fire(self, neuron: Neuron, current: Tensor) -> Tensor:
        """Spikes [B, X] of the next step."""
        current = current.float()  # a membrane adds up small numbers
        if neuron not in self.fired:
            membrane, rate, eligibility = (torch.zeros_like(current) for _ in range(3))
            self.fired[neuron] = Fired(membrane, rate, eligibility)
        of = self.fired[neuron]
        potential = of.membrane.mul_(neuron.decay).add_(current)
        spikes = (potential > neuron.threshold).to(current.dtype)
        of.steps += 1
        if self.keeping:
            of.rate.lerp_(spikes, 1 / of.steps)
            of.eligibility.lerp_(of.gain * slope(potential - neuron.threshold, neuron.surrogate), 1 / of.steps)
            of.gain = 1 + neuron.decay * of.gain
        potential.sub_(spikes, alpha=neuron.threshold)
        return spikes

    def normalised(self, norm: nn.Module, current: Tensor) -> Tensor:
        """What the BatchNorm makes of this step, in training by the statistics of this step."""
        if self.keeping and norm.training and not isinstance(norm, nn.Identity):
            moments = torch.var_mean(current, _but_channels(current), correction=0)
            variance, mean, steps = self.moments.get(norm, (*moments, 0))
            share = 1 / (steps + 1)
            self.moments[norm] = (variance.lerp(moments[0], share), mean.lerp(moments[1], share), steps + 1)
        normalised: Tensor = norm(current)
        return normalised


class RatePass:
    """One pass of rates behind a spike pass: its values, with a gradient.

    A neuron's output has the mean rate r as its value and the eligibility e as its derivative:
    sg(r) + (x e - sg(x e)), where sg stops the gradient. A BatchNorm has the mean statistics of the steps as its
    values, and the derivatives of those of the batch of rates. With one step it is exactly what backpropagation
    through time computes.
    """

    def __init__(self, of: SpikePass) -> None:
        self._of = of

    def fire(self, neuron: Neuron, current: Tensor) -> Tensor:
        """Rates [B, X]."""
        of = self._of.fired[neuron]
        eligible = current.float() * of.eligibility
        return of.rate + (eligible - eligible.detach())

    def normalised(self, norm: nn.Module, current: Tensor) -> Tensor:
        """What the BatchNorm makes of the rates; its running statistics stay as they are."""
        if norm not in self._of.moments:
            normalised: Tensor = norm(current)
            return normalised
        assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        own_variance, own_mean = torch.var_mean(current, _but_channels(current), correction=0)
        variance, mean, _ = self._of.moments[norm]
        variance, mean = variance + (own_variance - own_variance.detach()), mean + (own_mean - own_mean.detach())
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        shape = (1, -1, *(1 for _ in current.shape[2:]))
        return current * scale.view(shape) + (norm.bias - mean * scale).view(shape)


class ThroughTime:
    """Time steps whose whole graph is kept, by snntorch's leaky neurons; the gradient does not go through the reset."""

    def __init__(self) -> None:
        self._leaky: dict[Neuron, Callable[..., tuple[Tensor, Tensor]]] = {}
        self._membranes: dict[Neuron, Tensor] = {}

    def fire(self, neuron: Neuron, current: Tensor) -> Tensor:
        """Spikes [B, X] of the next step."""
        current = current.float()
        if neuron not in self._leaky:
            self._leaky[neuron] = _leaky(neuron)
            self._membranes[neuron] = torch.zeros_like(current)
        spikes, potential = self._leaky[neuron](current, self._membranes[neuron])
        self._membranes[neuron] = potential - neuron.threshold * spikes.detach()
        return spikes

    def normalised(self, norm: nn.Module, current: Tensor) -> Tensor:
        """What the BatchNorm makes of this step, in training by the statistics of this step."""
        normalised: Tensor = norm(current)
        return normalised


def _leaky(neuron: Neuron) -> Callable[..., tuple[Tensor, Tensor]]:
    """snntorch's neuron without its reset, whose order is another: there the leak comes before it, here behind."""
    # late: an optional package
    from snntorch import Leaky, SpikingNeuron, surrogate

    def derivative(excess: Tensor, gradient: Tensor, _: Tensor) -> Tensor:
        return gradient * slope(excess, neuron.surrogate)

    spike_grad = surrogate.custom_surrogate(derivative)
    leaky: Callable[..., Any] = Leaky(neuron.decay, neuron.threshold, spike_grad, reset_mechanism="none")
    del SpikingNeuron.instances[-1]  # where it would stay for ever, with the graph of its last step
    return leaky


def _adding_up(inputs: Iterable[Tensor], total: Tensor) -> Iterator[Tensor]:
    for one in inputs:
        total.add_(one)
        yield one


def _but_channels(current: Tensor) -> tuple[int, ...]:
    return (0, *range(2, current.ndim))


class SpikingNetwork(Network):
    """A network of leaky neurons whose logits are those of its mean rates.

    In training with `gradient: rate` its values are those of the spike pass as well. In evaluation time steps alone are
    computed, whatever the gradient was, and all are answers. A BatchNorm normalises each step by the statistics of that
    step.

    Differs: of Bernoulli coding, the probability of a pixel is its brightness between the darkest and the brightest one
        of its image. In evaluation its draws follow from the image, so that what is said about it depends neither on
        the others of its batch nor on when it is asked.
    """

    first_exit: int = 0
    """The stage behind which the first exit may be."""

    def __init__(self, settings: SpikingSettings, inputs: InputSpec) -> None:
        super().__init__(settings, inputs)
        self.settings = settings
        self.exits = nn.ModuleList()
        generator = torch.Generator().manual_seed(derived_seed("spikes in evaluation"))
        shape = settings.steps if settings.coding == "bernoulli" else 0, inputs.channels, inputs.size, inputs.size
        self.words_TCHW: Tensor
        self.register_buffer(
            "words_TCHW", torch.randint(-LARGEST, LARGEST, shape, generator=generator), persistent=False
        )

    @override
    @classmethod
    def offered(cls, settings: ComponentSettings) -> frozenset[str]:
        """Answers of exits, or of time steps where these have a gradient."""
        assert isinstance(settings, SpikingSettings)
        several = settings.branches > 0 or (settings.gradient == "bptt" and settings.steps > 1)
        return cls.offers if several else cls.offers - {"answers"}

    @abstractmethod
    def stages(self, run: Run, current: Tensor) -> Sequence[Tensor]:
        """What each stage sends on, from the input of one step, or from the mean input of all."""

    @abstractmethod
    def pooled(self, last: Tensor) -> Tensor:
        """The pooled feature [B, C] of what the last stage sends on."""

    @abstractmethod
    def _last_layer(self) -> nn.Linear:
        """The layer that classifies."""

    def coded(self, images_BCHW: Tensor) -> Iterator[Tensor]:
        """The input of each time step [B, C, H, W]."""
        if self.settings.coding == "direct":
            yield from (images_BCHW for _ in range(self.settings.steps))
            return
        brightness_BCHW = brightness(images_BCHW)
        for words_CHW in self.words_TCHW:
            drawn_BCHW = torch.rand_like(brightness_BCHW) if self.training else drawn_by(brightness_BCHW, words_CHW)
            yield (drawn_BCHW < brightness_BCHW).to(images_BCHW.dtype)

    @override
    def forward(self, images_BCHW: Tensor, stages: bool = False) -> Signals:
        """Logits and pooled feature of the mean rates, their stage maps when asked, and the answers there are."""
        differentiated = torch.is_grad_enabled()
        if not differentiated or self.settings.gradient == "bptt":
            run = ThroughTime() if differentiated else SpikePass(keeping=False)
            rates, of_steps = self._over_time(run, self.coded(images_BCHW), every=stages or len(self.exits) > 0)
            return self._said(rates, of_steps, stages)
        spiking, mean_BCHW = SpikePass(keeping=True), images_BCHW
        with torch.no_grad():
            inputs = self.coded(images_BCHW)
            if self.settings.coding != "direct":
                mean_BCHW = torch.zeros_like(images_BCHW)
                inputs = _adding_up(inputs, mean_BCHW)
            self._over_time(spiking, inputs, every=False)
            if self.settings.coding != "direct":
                mean_BCHW /= self.settings.steps
        return self._said(self.stages(RatePass(spiking), mean_BCHW), [], stages)

    def _over_time(self, run: Run, inputs: Iterable[Tensor], every: bool) -> tuple[Sequence[Tensor], list[Tensor]]:
        """Mean over time of what the stages send on, of `every` one or of the last; and the last's features by step."""
        totals: Sequence[Tensor] = ()
        of_steps = []
        for input_BCHW in inputs:
            sent = self.stages(run, input_BCHW)
            of_steps.append(self.pooled(sent[-1]))
            sent = sent if every else sent[-1:]
            totals = [total + one for total, one in zip(totals, sent, strict=True)] if totals else sent
        return [total / len(of_steps) for total in totals], of_steps

    def _said(self, rates: Sequence[Tensor], of_steps: Sequence[Tensor], stages: bool) -> Signals:
        """What the rates of all stages say, and the features of single steps where there are any."""
        pooled_BC = self.pooled(rates[-1])
        logits_BK = self._last_layer()(pooled_BC)
        answers: list[Tensor] = []
        if len(self.exits):
            answers = [exit(rates[self.first_exit + place]) for place, exit in enumerate(self.exits)] + [logits_BK]
        elif len(of_steps) > 1:
            answers = [self._last_layer()(step_BC) for step_BC in of_steps]
        return Signals(
            logits_BK,
            pooled_BC,
            tuple(rates) if stages and self.stage_shapes else None,
            last_map=rates[-1] if stages and self.last_map_shape is not None else None,
            answers_BJK=torch.stack(answers, dim=1) if answers else None,
            answer="branch" if len(self.exits) else "step",
        )

    @override
    def classifier(self) -> tuple[Tensor, Tensor]:
        layer = self._last_layer()
        return layer.weight, layer.bias
