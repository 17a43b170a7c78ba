"""Any `torch.nn.Module` as a network: names of its modules say where maps, pooled feature and last layer are.

A plugin file, named under `plugins:` in a study, makes its own network available as `my_net`:

    from torch import nn
    from akdtune.networks.adapter import InputOf, adapt
    from akdtune.registry import register

    def my_net(settings, inputs):
        \"\"\"My network, in one line.\"\"\"
        return MyNet(channels=inputs.channels, classes=inputs.num_classes)

    register("my_net")(
        adapt(
            my_net,
            classifier="fc",                           # the last nn.Linear
            stages=["stem", "layer1", "layer2"],       # modules that return [B, C, H, W], stem first
            preact=["stem.bn", InputOf("layer1.relu"), InputOf("layer2.relu")],
            norms=["layer1.bn", "layer2.bn"],
            last_map="layer2",
        )
    )

Only `classifier` is needed; what is left out is not offered, and methods that need it are refused by name. Settings of
its own are a `ComponentSettings` class given as `settings=`, whose values `my_net` finds in its first argument.
State-dict keys are the module's own, so its plain checkpoints load.
"""

# Shapes: B batch, K classes, C channels or feature width, H, W.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from akdtune.errors import AkdtuneError, nearest
from akdtune.networks import Network
from akdtune.networks._pooled import Norms, affine
from akdtune.registry import ComponentSettings, NoSettings
from akdtune.signals import InputSpec, Signals


class InputOf(str):
    """Name of a module whose first argument is meant, not its output."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InputOf) and str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(("input of", str(self)))

    def __repr__(self) -> str:
        return f"InputOf({str(self)!r})"


@dataclass(frozen=True)
class Captures:
    """Where a module's signals are: names as in `named_modules()`, for its output, or `InputOf` a name.

    A module that runs several times in one forward, such as a ReLU that a block uses twice, counts with its last run.

    Attributes:
        classifier: the last layer, an `nn.Linear` whose output is the module's.
        pooled: the pooled feature [B, C], or a map whose spatial mean it is; what goes into `classifier` if None.
        stages: maps after their ReLU, stem first.
        preact: the same maps before their ReLU.
        norms: the BatchNorm that each of `preact` comes out of, without the stem.
        last_map: the map whose spatial mean is the pooled feature.
        as_map: turns each of `stages` and `preact` into [B, C, H, W]; None where they are.
    """

    classifier: str
    pooled: str | None = None
    stages: tuple[str, ...] = ()
    preact: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    last_map: str | None = None
    as_map: Callable[[Tensor], Tensor] | None = None

    @property
    def pooled_at(self) -> str:
        """Where the pooled feature is."""
        return InputOf(self.classifier) if self.pooled is None else self.pooled

    def offers(self) -> frozenset[str]:
        """Which maps there are, in the terms of `Network.offers`."""
        held = {"stages": self.stages, "preact": self.preact, "last_map": self.last_map}
        return frozenset(name for name, where in held.items() if where)

    def everything(self) -> tuple[str, ...]:
        """All of them."""
        last = () if self.last_map is None else (self.last_map,)
        return (self.pooled_at, *self.stages, *self.preact, *last)


class AdaptedNetwork(Network):
    """A module of somebody else's, whose signals are captured while it runs.

    Hooks exist during a forward only, and only note what belongs to that forward: copies of the network, and forwards
    in other threads, see none. In-place activations of the module are switched off and maps that it overwrites in
    another way are copied, so that none changes after it was noted. The shapes come from one forward of an empty image
    in eval mode, when the network is built.
    """

    captures: ClassVar[Captures]

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "captures" in vars(cls):
            cls.offers = cls.captures.offers()

    def __init__(self, settings: ComponentSettings, inputs: InputSpec) -> None:
        """Builds the module and finds out its shapes.

        Raises:
            AkdtuneError: where a name of `captures` is no module, or what is found there does not fit.
        """
        super().__init__(settings, inputs)
        module = self.module(settings, inputs)
        self._check_names(module)
        for part in module.modules():
            if getattr(part, "inplace", False) is True:
                part.inplace = False  # type: ignore[assignment]
        # One set of parameters, buffers and children under both names, so that keys have no prefix; the module itself
        # is not a child.
        self.__dict__["_module"] = module
        self._parameters, self._buffers, self._modules = module._parameters, module._buffers, module._modules
        self._non_persistent_buffers_set = module._non_persistent_buffers_set
        logits_BK, notes = _dry_run(module, self.captures.everything(), inputs, self._name())
        self._copied = notes.overwritten()
        self._check_shapes(logits_BK, notes, inputs)

    def module(self, settings: ComponentSettings, inputs: InputSpec) -> nn.Module:
        """Builds the module; weights are drawn from torch's global generator, which the caller seeds."""
        raise NotImplementedError

    @override
    def forward(self, images_BCHW: Tensor, stages: bool = False) -> Signals:
        """Logits and pooled feature; all maps that are offered, when asked."""
        captures, module = self.captures, self.__dict__["_module"]
        wanted = captures.everything() if stages else (captures.pooled_at,)
        with _noting(module, wanted, self._copied) as seen:
            logits_BK = module(images_BCHW)
        pooled_BC = _flat(seen[captures.pooled_at])
        if not stages:
            return Signals(logits_BK, pooled_BC)
        return Signals(
            logits_BK,
            pooled_BC,
            self._maps(seen, captures.stages) or None,
            self._maps(seen, captures.preact) or None,
            None if captures.last_map is None else seen[captures.last_map],
        )

    def train(self, mode: bool = True) -> AdaptedNetwork:
        """Also switches the module itself, which is not a child."""
        super().train(mode)
        self.__dict__["_module"].training = mode
        return self

    @override
    def stage_norms(self) -> Norms:
        """The BatchNorms named in `captures`."""
        return affine(self._part(name) for name in self.captures.norms)

    @override
    def classifier(self) -> tuple[Tensor, Tensor]:
        """Weight [K, C] and bias [K] of the last layer; zeros where it has none."""
        layer = self._part(self.captures.classifier)
        assert isinstance(layer, nn.Linear)
        bias_K: Tensor | None = layer.bias
        return layer.weight, layer.weight.new_zeros(len(layer.weight)) if bias_K is None else bias_K

    def _part(self, name: str) -> nn.Module:
        module: nn.Module = self.__dict__["_module"]
        return module.get_submodule(name)

    def _maps(self, seen: dict[str, Tensor], names: Sequence[str]) -> tuple[Tensor, ...]:
        as_map = self.captures.as_map
        return tuple(seen[name] if as_map is None else as_map(seen[name]) for name in names)

    def _name(self) -> str:
        return f"network {type(self).__name__}"

    def _check_names(self, module: nn.Module) -> None:
        captures, known = self.captures, dict(module.named_modules())
        for name in (captures.classifier, *captures.everything(), *captures.norms):
            if str(name) not in known:
                close = nearest(str(name), known)
                hint = f"; did you mean '{close}'?" if close else ""
                raise AkdtuneError(f"{self._name()}: has no module '{name}'{hint}")
        if not isinstance(known[captures.classifier], nn.Linear):
            kind = type(known[captures.classifier]).__name__
            raise AkdtuneError(f"{self._name()}: classifier '{captures.classifier}' is {kind}, not Linear")
        for name in captures.norms:
            if not isinstance(known[name], nn.BatchNorm2d):
                raise AkdtuneError(f"{self._name()}: norm '{name}' is {type(known[name]).__name__}, not BatchNorm2d")
        counts = (("preact", len(captures.preact), 0), ("norms", len(captures.norms), 1))
        for what, number, fewer in counts:
            if number and number != len(captures.stages) - fewer:
                allowed = "one for each stage" + (" but the stem" if fewer else "")
                raise AkdtuneError(f"{self._name()}: {number} {what} for {len(captures.stages)} stages ({allowed})")

    def _check_shapes(self, logits_BK: Any, seen: dict[str, Tensor], inputs: InputSpec) -> None:
        """Sets the shapes that the dry run found, where they make sense."""
        captures, classes = self.captures, inputs.num_classes
        if not isinstance(logits_BK, Tensor) or logits_BK.shape[1:] != (classes,):
            got = list(logits_BK.shape) if isinstance(logits_BK, Tensor) else type(logits_BK).__name__
            raise AkdtuneError(f"{self._name()}: returns {got}, not logits [batch, {classes}]")
        weight_KC, _ = self.classifier()
        pooled_BC = _flat(seen[captures.pooled_at])
        if pooled_BC.shape[1:] != weight_KC.shape[1:]:
            raise AkdtuneError(
                f"{self._name()}: the pooled feature is {list(pooled_BC.shape)}, but {captures.classifier} takes "
                f"[batch, {weight_KC.shape[1]}]"
            )
        self.pooled_dim = weight_KC.shape[1]
        self.stage_shapes = self._shapes(captures.stages, self._maps(seen, captures.stages))
        preact_shapes = self._shapes(captures.preact, self._maps(seen, captures.preact))
        if preact_shapes and preact_shapes != self.stage_shapes:
            raise AkdtuneError(
                f"{self._name()}: maps before their ReLU are {_listed(preact_shapes)}, "
                f"after {_listed(self.stage_shapes)}"
            )
        for name, (weight_C, _), shape in zip(captures.norms, self.stage_norms(), self.stage_shapes[1:], strict=False):
            if len(weight_C) != shape[0]:
                raise AkdtuneError(f"{self._name()}: norm '{name}' has {len(weight_C)} channels, its map {shape[0]}")
        if captures.last_map is not None:
            (self.last_map_shape,) = self._shapes((captures.last_map,), (seen[captures.last_map],))
            if self.last_map_shape[0] != self.pooled_dim:
                raise AkdtuneError(
                    f"{self._name()}: the last map has {self.last_map_shape[0]} channels, "
                    f"the pooled feature {self.pooled_dim}"
                )

    def _shapes(self, names: Sequence[str], maps: Sequence[Tensor]) -> tuple[tuple[int, int, int], ...]:
        for name, map_BCHW in zip(names, maps, strict=True):
            if map_BCHW.ndim != 4:
                raise AkdtuneError(
                    f"{self._name()}: {name!r} gives {list(map_BCHW.shape)}, not a map [batch, channels, height, width]"
                )
        shapes = [map_BCHW.shape for map_BCHW in maps]
        return tuple((channels, height, width) for _, channels, height, width in shapes)


def adapt(
    build: Callable[[Any, InputSpec], nn.Module],
    *,
    classifier: str,
    pooled: str | None = None,
    stages: Iterable[str] = (),
    preact: Iterable[str] = (),
    norms: Iterable[str] = (),
    last_map: str | None = None,
    as_map: Callable[[Tensor], Tensor] | None = None,
    settings: type[ComponentSettings] = NoSettings,
    source: str = "",
) -> type[AdaptedNetwork]:
    """A network class from a function that builds a module; register it under a name of your own.

    Args:
        build: gets the settings and the inputs (channels, size, num_classes), returns a module whose forward maps
            images [B, C, H, W] to logits [B, K]. Its name and docstring become the class's.
        classifier: see `Captures`, also for the arguments that follow.
        pooled: see there.
        stages: see there.
        preact: see there.
        norms: see there.
        last_map: see there.
        as_map: see there.
        settings: class of the network's own settings.
        source: the paper, for `akdtune networks`.
    """
    fields = {
        "__doc__": build.__doc__ or f"{build.__name__} of {build.__module__}, a module of its own.",
        "__module__": build.__module__,
        "Settings": settings,
        "source": source,
        "captures": Captures(classifier, pooled, tuple(stages), tuple(preact), tuple(norms), last_map, as_map),
        "module": lambda self, settings, inputs: build(settings, inputs),
    }
    return type(build.__name__, (AdaptedNetwork,), fields)


class _Notes(dict[str, Tensor]):
    """Tensors by name, and how often each had been overwritten when it was noted."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: dict[str, int] = {}

    def overwritten(self) -> frozenset[str]:
        """Names of tensors that an in-place operation has changed since."""
        return frozenset(name for name, tensor in self.items() if tensor._version != self.versions[name])


_running: ContextVar[_Notes | None] = ContextVar("running", default=None)
"""The notes of the forward that runs in this thread; hooks of another forward on the same module leave them alone."""


@contextmanager
def _noting(module: nn.Module, names: Iterable[str], copied: frozenset[str] = frozenset()) -> Iterator[_Notes]:
    """Notes outputs and inputs of modules by name while they run; `copied` are kept safe from in-place operations."""
    notes = _Notes()
    token = _running.set(notes)
    handles = []

    def note(name: str, value: Any) -> None:
        if _running.get() is notes and isinstance(value, Tensor):
            notes[name] = value.clone() if name in copied else value
            notes.versions[name] = value._version

    def note_input(name: str, given: tuple[Any, ...]) -> None:
        note(name, given[0] if given else None)

    for name in dict.fromkeys(names):
        part = module.get_submodule(str(name))
        if isinstance(name, InputOf):
            handles.append(part.register_forward_pre_hook(lambda _, given, name=name: note_input(name, given)))
        else:
            handles.append(part.register_forward_hook(lambda _, given, made, name=name: note(name, made)))
    try:
        yield notes
    finally:
        _running.reset(token)
        for handle in handles:
            handle.remove()


def _dry_run(module: nn.Module, names: tuple[str, ...], inputs: InputSpec, title: str) -> tuple[Any, _Notes]:
    """One forward of an empty image in eval mode, which it leaves again: what it returns and what it notes."""
    modes = {part: part.training for part in module.modules()}
    own = next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _noting(module, names) as notes:
            logits_BK = module(torch.zeros(1, inputs.channels, inputs.size, inputs.size, device=own))
    except Exception as error:  # the module's own, from its forward
        reason = (str(error) or type(error).__name__).splitlines()[0]
        size = f"{inputs.channels} x {inputs.size} x {inputs.size}"
        raise AkdtuneError(f"{title}: cannot process images of {size} ({reason})") from error
    finally:
        for part, mode in modes.items():
            part.training = mode
    for name in names:
        if name not in notes:
            where = f"goes into '{name}'" if isinstance(name, InputOf) else f"comes out of '{name}'"
            raise AkdtuneError(f"{title}: no tensor {where} in a forward")
    return logits_BK, notes


def _flat(tensor: Tensor) -> Tensor:
    """A pooled feature [B, C], or the spatial mean of a map."""
    return tensor.mean(dim=(2, 3)) if tensor.ndim == 4 else tensor


def _listed(shapes: Iterable[tuple[int, int, int]]) -> str:
    return ", ".join(" x ".join(map(str, shape)) for shape in shapes)
