"""CUDA graphs: a whole training step recorded once and launched as one, where that changes no number.

A step of these networks is hundreds of launches of a few microseconds each, more than a fast GPU takes to run them.
The first steps of a kind run as usual, on the stream that is recorded later, and count as training: nothing is thrown
away. Then a step is recorded, which runs nothing, and from there on every step of that kind is a copy into fixed inputs
and one launch. A recording holds every number that Python knew (learning rate, weights, shapes): where one of them
changes, the steps run as usual again until a new recording is made. Whatever cannot be recorded runs as without graphs,
after one printed line.

References:
    PyTorch's notes on CUDA semantics, "CUDA Graphs", and the docstrings of torch.cuda.graphs.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import override

from akdtune.registry import name_of
from akdtune.signals import Batch, Inputs, Signals
from akdtune.training.objective import Objective
from akdtune.training.states import copied
from akdtune.views import ViewAugmenter

WARMUP_STEPS = 3
"""Steps that run as usual before one of their kind is recorded: libraries and the optimiser set themselves up."""

_EXPECTED_READERS = (Objective.__module__, "dataclasses")
"""Modules that may ask a batch for its epoch: what the objective makes of it stands in `baked_numbers`."""

Values = dict[str, Tensor]
"""What a step measures: scalars by name."""


@dataclass(frozen=True)
class StepInputs:
    """Everything that differs between two steps.

    Attributes:
        batch: labels, positions and the sources of random draws.
        teacher: what the teachers say about it; None where nothing asks them.
        inputs: what networks are asked about; None in steps that ask none.
        strong: the same under the strong augmentation; None where nothing asks for it.
    """

    batch: Batch
    teacher: Signals | None = None
    inputs: Inputs | None = None
    strong: Inputs | None = None


Step = Callable[[StepInputs], Values]
"""One update: zero_grad, forward, backward, the optimiser's step, what comes after it; reads its argument alone."""


class Recorder(Protocol):
    """How steps are recorded."""

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """Where steps run that prepare a recording."""
        ...

    def record(
        self, work: Callable[[], Values], generators: Sequence[torch.Generator]
    ) -> tuple[Callable[[], None], Values]:
        """Records some work without doing it: what does it, and where its results then lie.

        Raises:
            RuntimeError: where it cannot be recorded.
        """
        ...


class CudaRecorder(Recorder):
    """Records on a CUDA device.

    Args:
        device: with its index, or the current one.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    @override
    def aside(self) -> Iterator[None]:
        """The stream of the recording: gradients and momentum are then first made where they are recorded later."""
        usual = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            yield
        usual.wait_stream(self._stream)

    @override
    def record(
        self, work: Callable[[], Values], generators: Sequence[torch.Generator]
    ) -> tuple[Callable[[], None], Values]:
        graph = torch.cuda.CUDAGraph()
        if hasattr(graph, "register_generator_state"):
            with warnings.catch_warnings():  # newer versions find generators themselves, and say so
                warnings.simplefilter("ignore")
                for generator in generators:
                    graph.register_generator_state(generator)
        # thread_local: what threads that load data ask of the driver meanwhile is no fault of the step's
        recording = torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local")
        with _no_collection(), recording:
            values = work()
        return graph.replay, values


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps Python from freeing an older graph meanwhile, which would spoil the recording."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True)
class WatchedBatch(Batch):
    """A batch that notes who asks for its epoch: a step whose numbers follow it must be recorded anew in each."""

    readers: set[str] = field(default_factory=set, compare=False)

    @classmethod
    def watching(cls, batch: Batch, readers: set[str]) -> WatchedBatch:
        """The same batch; names of modules that ask for its epoch are added to `readers`."""
        return cls(**{of.name: getattr(batch, of.name) for of in fields(Batch)}, readers=readers)

    def __getattribute__(self, name: str) -> Any:
        if name == "epoch":
            reader = str(sys._getframe(1).f_globals.get("__name__"))
            if reader not in _EXPECTED_READERS:
                object.__getattribute__(self, "readers").add(reader)
        return super().__getattribute__(name)


@dataclass(frozen=True)
class _Recorded:
    """A step that is launched as one."""

    kind: Hashable
    inputs: Sequence[Tensor]
    launch: Callable[[], None]
    values: Values


class StepGraph:
    """Does one kind of training step, recorded where that is possible.

    Args:
        modules: everything whose parameters and buffers the step changes.
        optimizer: that the step uses.
        recorder: None: every step runs as usual.
        refused: why steps must run as usual although there is a recorder; printed.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        optimizer: torch.optim.Optimizer,
        recorder: Recorder | None,
        refused: str | None = None,
    ) -> None:
        self._modules, self._optimizer, self._recorder = list(modules), optimizer, recorder
        self._numbers: Hashable = None
        self._readers: set[str] = set()
        self._recorded: _Recorded | None = None
        self._kind: Hashable = None
        self._seen = 0
        if recorder is not None and refused is not None:
            self._give_up(refused)

    @property
    def is_recorded(self) -> bool:
        """Whether there is a recording at present."""
        return self._recorded is not None

    def begin_epoch(self, numbers: Hashable) -> None:
        """Says which numbers the steps to come work with; see `baked_numbers`."""
        self._numbers = numbers

    def __call__(self, step: Step, inputs: StepInputs) -> Values:
        """Does one step.

        Args:
            step: always the same; not kept, as what it belongs to keeps this object.
            inputs: of this step.

        Returns:
            Its scalars, to be read without a gradient. They stay valid until the next call only.
        """
        if self._recorder is not None and inputs.batch.partner_labels_B is not None:
            self._give_up("images are mixed, each batch in shares of its own")
        if self._recorder is None:
            return step(inputs)
        epoch = inputs.batch.epoch
        inputs = replace(inputs, batch=WatchedBatch.watching(inputs.batch, self._readers))
        tensors: list[Tensor] = []
        parts = taken_apart(inputs, tensors)
        kind = (self._numbers, parts, epoch if self._readers else None)
        if self._recorded is not None and self._recorded.kind == kind:
            self._kind = None  # what came in between was an exception: the short last batch of each epoch
            return self._launched(self._recorded, tensors)
        if kind != self._kind:
            self._kind, self._seen = kind, 0
        if self._seen < WARMUP_STEPS:
            self._seen += 1
            with self._recorder.aside():
                return _done(step, inputs)
        return self._first_launch(self._recorder, step, inputs, tensors, kind)

    def release(self) -> None:
        """Frees the memory of the recording."""
        self._recorded = None

    def _first_launch(
        self, recorder: Recorder, step: Step, inputs: StepInputs, tensors: list[Tensor], kind: Hashable
    ) -> Values:
        """Records a step and does it; or gives up and does it as usual."""
        fixed = [tensor.detach().clone() for tensor in tensors]
        held: StepInputs = rebuilt(inputs, iter(fixed))
        self._recorded = None
        self._optimizer.zero_grad(set_to_none=True)  # so that gradients lie where the recording has them
        generators = inputs.batch.generators
        before = Snapshot(self._modules, self._optimizer, generators)
        try:
            launch, values = recorder.record(lambda: _done(step, held), generators)
        except RuntimeError as error:
            why: str | None = (str(error) or type(error).__name__).splitlines()[0]
        else:
            rebound = before.rebound()
            why = f"a step puts another tensor in the place of {', '.join(rebound)}" if rebound else None
        before.restore()
        if why is not None:
            self._optimizer.zero_grad(set_to_none=True)
            self._give_up(why)
            return _done(step, inputs)
        self._recorded = _Recorded(kind, fixed, launch, values)
        return self._launched(self._recorded, tensors)

    @staticmethod
    def _launched(recorded: _Recorded, tensors: Sequence[Tensor]) -> Values:
        for there, new in zip(recorded.inputs, tensors, strict=True):
            there.copy_(new, non_blocking=True)
        recorded.launch()
        return recorded.values

    def _give_up(self, why: str) -> None:
        self._recorder = self._recorded = None
        print(f"warning: no CUDA graphs: {why}; the numbers are the same")


def _done(step: Step, inputs: StepInputs) -> Values:
    return {name: value.detach() for name, value in step(inputs).items()}


class Snapshot:
    """What a step changes, copied: tensors of modules, the optimiser's state, sources of random numbers.

    Recording a step runs no kernel, but it does run Python; what that changed on the host must be undone, so that the
    recording is no step of its own, and neither is one that failed half-way.
    """

    def __init__(
        self, modules: Sequence[nn.Module], optimizer: torch.optim.Optimizer, generators: Iterable[torch.Generator]
    ) -> None:
        self._optimizer = optimizer
        self._attributes = [
            (f"{type(module).__name__}.{path}".strip("."), held, _tensors_or_none(held))
            for module in modules
            for path, inner in module.named_modules()
            for held in (vars(inner), inner._parameters, inner._buffers)
        ]
        tensors = [tensor for _, _, known in self._attributes for tensor in known.values() if tensor is not None]
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._state = {parameter: copied(state) for parameter, state in optimizer.state.items()}
        self._generators = [(generator, generator.get_state()) for generator in generators]
        self._host = torch.get_rng_state()
        self._device = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    @torch.no_grad()
    def restore(self) -> None:
        """Puts everything back, in place: recordings know tensors by their addresses."""
        for _, held, known in self._attributes:
            for name in _tensors_or_none(held).keys() - known.keys():
                del held[name]
            held.update(known)
        for tensor, kept in self._tensors:
            tensor.copy_(kept)
        for parameter in list(self._optimizer.state):
            if parameter not in self._state:
                del self._optimizer.state[parameter]
                continue
            state, kept_state = self._optimizer.state[parameter], self._state[parameter]
            for name in list(state):
                if name not in kept_state:
                    del state[name]
                elif isinstance(state[name], Tensor):
                    state[name].copy_(kept_state[name])
                else:
                    state[name] = kept_state[name]
        for generator, kept in self._generators:
            generator.set_state(kept)
        torch.set_rng_state(self._host)
        if self._device is not None:
            torch.cuda.set_rng_state(self._device)

    def rebound(self) -> list[str]:
        """Tensors of the modules that are other tensors now: a recording would go on reading the old ones."""
        names = set()
        for path, held, known in self._attributes:
            now = _tensors_or_none(held)
            names |= {f"{path}.{name}" for name in known.keys() | now.keys() if known.get(name) is not now.get(name)}
        return sorted(names)


def _tensors_or_none(held: Mapping[str, Any]) -> dict[str, Tensor | None]:
    """The attributes of a module that are tensors, or might become some."""
    return {name: value for name, value in held.items() if value is None or isinstance(value, Tensor)}


def taken_apart(node: Any, tensors: list[Tensor]) -> Hashable:
    """Appends the tensors in some inputs; returns all else that a recording depends on, except the epoch."""
    if isinstance(node, Tensor):
        tensors.append(node)
        return node.shape, node.stride(), node.dtype, node.device
    if isinstance(node, tuple):
        return tuple(taken_apart(item, tensors) for item in node)
    if is_dataclass(node):
        left_out = ("epoch", "readers") if isinstance(node, Batch) else ()
        names = [part.name for part in fields(node) if part.name not in left_out]
        return tuple((name, taken_apart(getattr(node, name), tensors)) for name in names)
    assert isinstance(node, Hashable)
    return node


def rebuilt(node: Any, tensors: Iterator[Tensor]) -> Any:
    """The same inputs with other tensors, in the order of `taken_apart`."""
    if isinstance(node, Tensor):
        return next(tensors)
    if isinstance(node, tuple):
        return tuple(rebuilt(item, tensors) for item in node)
    if is_dataclass(node) and not isinstance(node, type):
        left_out = ("epoch", "readers") if isinstance(node, Batch) else ()
        names = [part.name for part in fields(node) if part.name not in left_out]
        return replace(node, **{name: rebuilt(getattr(node, name), tensors) for name in names})
    return node


def baked_numbers(optimizer: torch.optim.Optimizer, parts: Objective | ViewAugmenter, epoch: int) -> Hashable:
    """The numbers that a recording of this epoch's steps holds: those of the optimiser, and every weight.

    Args:
        optimizer: with the epoch's learning rate.
        parts: the objective of a student's step, or the views of a warm-up step.
        epoch: counted from 1.
    """
    groups = [[(name, value) for name, value in group.items() if name != "params"] for group in optimizer.param_groups]
    views = parts.views if isinstance(parts, Objective) else parts
    weights: list[Any] = [("views", sorted(views.penalty_weights().items()))]
    if isinstance(parts, Objective):
        weights.append(("ce", parts.ce_weight))
        weights += [(name, sorted(method.weights(epoch).items())) for name, method in parts._methods().items()]
    return repr((groups, weights))


def refusal(
    optimizer: torch.optim.Optimizer, parts: Objective | ViewAugmenter, network: nn.Module | None = None
) -> str | None:
    """Why steps of these parts cannot be recorded, as far as they say so themselves; None where nothing is known.

    A component with the attribute `capturable = False` says so: one that keeps something from one step to the next in
    plain Python, or decides by what it computed. Waiting for the device is found out when a step is recorded.
    """
    named: dict[str, Any] = {} if network is None else {type(network).__name__: network}
    if isinstance(parts, Objective):
        named |= {f"method '{name}'": method for name, method in parts._methods().items()}
        if parts.overlaps_batches:
            return "a method keeps what the student said one step ago"
    if isinstance(parts, Objective) and parts.selection is not None:
        named[f"selection '{name_of(type(parts.selection))}'"] = parts.selection
    views = parts.views if isinstance(parts, Objective) else parts
    named[f"views '{type(views).__name__}'"] = views
    for name, component in named.items():
        if not getattr(component, "capturable", True):
            return f"{name} is not made for it"
    if any(group.get("capturable") is False for group in optimizer.param_groups):
        return f"the optimiser {type(optimizer).__name__} counts its steps on the host"
    return None


def recorder(device: torch.device, wanted: bool) -> Recorder | None:
    """What records on a device; None where graphs are not wanted or the device has none."""
    return CudaRecorder(device) if wanted and device.type == "cuda" else None
