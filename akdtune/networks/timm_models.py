"""Classifiers of timm by name, `timm/resnet18` or `timm/vit_tiny_patch16_224`, with timm's own state-dict keys.

What a model offers is found out when its name is read: it runs once on an image without values, and its feature
information says where its maps are.

References:
    Wightman, PyTorch Image Models, https://github.com/huggingface/pytorch-image-models, doi 10.5281/zenodo.4414861
"""

# timm is imported when a name is looked up: it is slow to load. Shapes: B batch, T tokens, C channels, H, W.

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import override

from akdtune.errors import AkdtuneError, nearest
from akdtune.networks.adapter import AdaptedNetwork, Captures, InputOf
from akdtune.registry import ComponentSettings, Family, register_family
from akdtune.signals import InputSpec

Shape: TypeAlias = tuple[int, ...]
AsMap: TypeAlias = Callable[[Tensor], Tensor]

STAGES = 4
"""Of a transformer with one resolution: its depth is divided into as many stages."""


class TimmNetwork(AdaptedNetwork):
    """Any image size that the model takes and any number of channels; weights are drawn as timm does, never fetched.

    The pooled feature is what goes into the last linear layer. Stage maps are where timm's feature information says,
    one for each resolution (of transformers the tokens of each quarter of the depth, without class token and laid out
    as the patches are), the stem first; there are none before their ReLU. Weights of timm's are a file, named as
    `teacher.checkpoint` or `student.checkpoint`.

    Differs: activations do not work in place.
    """

    takes_channels_last = False
    source = "Wightman, PyTorch Image Models, doi 10.5281/zenodo.4414861"
    model: ClassVar[str]
    """Timm's name."""
    fixed_size: ClassVar[bool]
    """Whether the model is built for one image size."""

    @override
    def module(self, settings: ComponentSettings, inputs: InputSpec) -> nn.Module:
        """Timm's module for these channels, classes and, where it is built for one, this size of images.

        Raises:
            AkdtuneError: for images that the model cannot be built for.
        """
        size = {"img_size": inputs.size} if self.fixed_size else {}
        try:
            return _created(self.model, num_classes=inputs.num_classes, in_chans=inputs.channels, **size)
        except Exception as error:  # timm's own code, for sizes that patches and windows do not cover
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise AkdtuneError(
                f"{self._name()}: cannot be built for images of {inputs.channels} x {inputs.size} x {inputs.size} "
                f"({reason})"
            ) from error


@functools.cache
def timm_network(name: str) -> type[TimmNetwork]:
    """The network class of a model of timm's.

    Raises:
        AkdtuneError: without timm, for an unknown name, and for a model that does not end in one linear layer.
    """
    known = model_names()
    if name.partition(".")[0] not in known:
        close = nearest(name.partition(".")[0], known)
        hint = f"; did you mean 'timm/{close}'?" if close else ""
        raise AkdtuneError(f"unknown network 'timm/{name}'{hint} (`akdtune networks 'timm/*'` lists {len(known)})")
    module, fixed, size = _without_values(name)
    run = _Run.of(module, size, f"network timm/{name}")
    fields = {
        "__doc__": f"{name} of timm; {_parameters(module):,} parameters at 1000 classes.\n\n{TimmNetwork.__doc__}",
        "__module__": __name__,
        "model": name,
        "fixed_size": fixed,
        "captures": _captures(module, run, name),
    }
    return type(f"timm/{name}", (TimmNetwork,), fields)


def model_names() -> frozenset[str]:
    """Every model that timm builds.

    Raises:
        AkdtuneError: where timm is not installed.
    """
    return frozenset(_timm().list_models())


def _timm() -> Any:
    try:
        import timm  # late: it is slow to load, and an extra
    except ImportError as error:
        raise AkdtuneError(f"networks of timm need the package timm: pip install timm ({error})") from error
    return timm


def _created(name: str, **settings: Any) -> nn.Module:
    built: nn.Module = _timm().create_model(name, pretrained=False, **settings)
    return built


def _without_values(name: str) -> tuple[nn.Module, bool, int]:
    """A model for 1000 classes, on the device `meta` where its code allows; whether its size is fixed; a size."""
    try:
        with torch.device("meta"):
            module = _created(name, num_classes=1000)
    except Exception:  # code that reads numbers while it builds
        module = _created(name, num_classes=1000)
    facts: Any = getattr(module, "default_cfg", {})
    return module.eval(), bool(facts.get("fixed_input_size")), int(facts.get("input_size", (3, 224, 224))[-1])


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ------------------------------------------------------------------------------------------------- what a model offers


@dataclass
class _Run:
    """What happened in one forward of one image.

    Attributes:
        given: shape of each module's first argument.
        made: shape of what each module returned.
        order: names of modules without children, as they ran.
        logits: what the model returned.
        returned: what each module returned.
    """

    logits: Any = None
    given: dict[str, Shape] = field(default_factory=dict)
    made: dict[str, Shape] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    returned: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module, size: int, title: str) -> _Run:
        run, handles = cls(), []
        for name, part in module.named_modules():
            handles.append(part.register_forward_pre_hook(functools.partial(run._before, name)))
            handles.append(part.register_forward_hook(functools.partial(run._after, name)))
        device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
        try:
            with torch.no_grad():
                run.logits = module(torch.zeros(1, 3, size, size, device=device))
        except Exception as error:  # timm's own code
            raise AkdtuneError(f"{title}: cannot be run ({error})") from error
        finally:
            for handle in handles:
                handle.remove()
        return run

    def _before(self, name: str, part: nn.Module, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            self.given[name] = tuple(given[0].shape)
        if not any(True for _ in part.children()):
            self.order.append(name)

    def _after(self, name: str, part: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        if isinstance(made, Tensor):
            self.made[name] = tuple(made.shape)
            self.returned[name] = made


def _captures(module: nn.Module, run: _Run, name: str) -> Captures:
    """Where a model's signals are.

    Raises:
        AkdtuneError: for a model whose prediction is not what its one last linear layer returns.
    """
    facts: Any = getattr(module, "default_cfg", {})
    classifier = facts.get("classifier")
    if not isinstance(classifier, str):
        raise AkdtuneError(f"network timm/{name}: has no single last layer (timm names {classifier or 'none'})")
    layer = dict(module.named_modules()).get(classifier)
    if not isinstance(layer, nn.Linear):
        raise AkdtuneError(f"network timm/{name}: its last layer '{classifier}' is {type(layer).__name__}, not Linear")
    if run.returned.get(classifier) is not run.logits or len(run.given[classifier]) != 2:
        raise AkdtuneError(f"network timm/{name}: its prediction is not the output of its last layer '{classifier}'")
    stages, as_map = _stages(module, run)
    return Captures(classifier, stages=stages, as_map=as_map, last_map=_last_map(module, run, classifier))


def _stages(module: nn.Module, run: _Run) -> tuple[tuple[str, ...], AsMap | None]:
    """Modules whose outputs are maps, one for each resolution, and how these become [B, C, H, W]."""
    information: Any = getattr(module, "feature_info", None) or ()
    entries = [entry for entry in information if isinstance(entry, Mapping) and entry.get("module") in run.made]
    prefix = int(getattr(module, "num_prefix_tokens", 0) or 0)
    layouts = {entry["module"]: _layout(run.made[entry["module"]], int(entry["num_chs"]), prefix) for entry in entries}
    layout = next((layouts[entry["module"]] for entry in reversed(entries)), None)
    entries = [entry for entry in entries if layouts[entry["module"]] == layout]
    if layout is None or len(entries) < 2:
        return (), None
    by_reduction = {entry["reduction"]: entry["module"] for entry in entries}
    names = list(by_reduction.values()) if len(by_reduction) > 1 else _quarters([entry["module"] for entry in entries])
    if min(by_reduction) > 2 and (stem := _stem(run, entries[0]["module"], layout, prefix)) is not None:
        names = [stem, *(name for name in names if name != stem)]
    as_map: dict[str, AsMap | None] = {
        "map": None, "channels last": _channels_first, "tokens": functools.partial(_tokens_as_map, prefix=prefix)
    }  # fmt: skip
    return tuple(names), as_map[layout]


def _stem(run: _Run, first: str, layout: str, prefix: int) -> str | None:
    """Where the map is that goes into the first stage, for models whose first entry is not their stem."""
    if layout == "tokens":  # with class token and position already, as the blocks' own outputs
        shape = run.given.get(first, ())
        return InputOf(first) if len(shape) == 3 and shape == run.made[first] else None
    stem = next((name for name in ("stem", "patch_embed") if name in run.made), None)
    if stem is None or len(run.made[stem]) != 4:
        return None
    return stem if _layout(run.made[stem], run.made[stem][1 if layout == "map" else 3], prefix) == layout else None


def _layout(shape: Shape, channels: int, prefix: int) -> str | None:
    """How a tensor holds a map; None where it holds none."""
    if len(shape) == 4 and shape[1] == channels:
        return "map"
    if len(shape) == 4 and shape[3] == channels:
        return "channels last"
    return "tokens" if len(shape) == 3 and shape[2] == channels and _side(shape[1], prefix) else None


def _side(tokens: int, prefix: int) -> int:
    """Height and width of the square that tokens are laid out in, with or without those before them; 0: none."""
    for number in (tokens - prefix, tokens):
        if number > 0 and math.isqrt(number) ** 2 == number:
            return math.isqrt(number)
    return 0


def _quarters(names: Sequence[str]) -> list[str]:
    count = min(STAGES, len(names))
    return [names[len(names) * (number + 1) // count - 1] for number in range(count)]


def _channels_first(map_BHWC: Tensor) -> Tensor:
    return map_BHWC.permute(0, 3, 1, 2)


def _tokens_as_map(tokens_BTC: Tensor, prefix: int) -> Tensor:
    """Tokens of square images as a map [B, C, H, W], without those that stand before them."""
    side = _side(tokens_BTC.shape[1], prefix)
    return tokens_BTC[:, -side * side :].transpose(1, 2).reshape(len(tokens_BTC), -1, side, side)


def _last_map(module: nn.Module, run: _Run, classifier: str) -> str | None:
    """Where the map is whose mean is the pooled feature; None where something comes in between."""
    parts = dict(module.named_modules())
    name = next((name for name in run.given if name.rpartition(".")[2] == "global_pool"), None)
    if name is None or getattr(parts[name], "pool_type", None) != "avg":
        return None
    shape = run.given[name]
    if len(shape) != 4 or shape[1] != run.given[classifier][1] or run.made.get(name, ())[:2] != shape[:2]:
        return None
    inside = [leaf for leaf in run.order if leaf == name or leaf.startswith(f"{name}.")]
    if not inside or classifier not in run.order:
        return None
    between = run.order[run.order.index(inside[-1]) + 1 : run.order.index(classifier)]
    idle = nn.Identity | nn.Flatten | nn.Dropout
    return InputOf(name) if all(isinstance(parts[leaf], idle) for leaf in between) else None


register_family("timm", "networks", Family(timm_network, model_names, TimmNetwork.source))
