"""A GPU that is none: tensors that say they lie on `cuda:0`, computed by the CPU, under the rules of a real one.

What a program that was only ever run on the CPU gets wrong on a GPU, it gets wrong here, too: tensors of two devices in
one operation, a generator of the other device, an array of NumPy's made of a tensor that is not on the host, a device
compared with one without an index. Operations that make the host wait are noted, with the line of the project's code
that asked for them. `Tape` records steps as CUDA graphs do: operations with their addresses, and nothing of Python.

Not seen: what only CUDA's own kernels, streams, memory and libraries refuse or round differently.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from tests.checkout import ROOT

CUDA = torch.device("cuda", 0)
NAME = "stand-in GPU"
WAITING = set(
    """_local_scalar_dense item is_nonzero equal nonzero masked_select bincount _unique2 unique_dim unique_consecutive
    repeat_interleave _linalg_svd _linalg_eigh linalg_cholesky linalg_inv_ex linalg_solve_ex""".split()
)
"""Operations whose result, or its shape, the host has to know: on a GPU it then waits for everything before them."""

aten = torch.ops.aten
_TRANSFERS = (aten._to_copy.default, aten.copy_.default)
_INDEXED_FROM_HOST = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default)
_MAKE_TENSORS = (torch.tensor, torch.as_tensor, torch.asarray)
_BUILT_IN = types.BuiltinFunctionType | types.MethodDescriptorType | types.WrapperDescriptorType
_BETWEEN = (__file__, "torch/_ops.py", "torch/_compile.py", "torch/_dynamo/eval_frame.py")


def waits(func: Any, args: Sequence[Any]) -> bool:
    """Whether an operation on a GPU's tensors makes the host wait for them."""
    name = str(func).removeprefix("aten.")
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    by_mask = name.startswith("index") and any(
        isinstance(tensor, Tensor) and tensor.dtype in (torch.bool, torch.uint8) for tensor in indices
    )
    return by_mask or name.split(".")[0] in WAITING


class OnDevice(Tensor):
    """A tensor that lies on the stand-in; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, requires_grad=held.requires_grad
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert StandIn.current is not None, "the stand-in is not there any more"
        return StandIn.current.run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """As tensors on a GPU say it: with an index."""
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """As `device`."""
        return True

    def numpy(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """As torch refuses it."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        self.numpy()

    def to(self, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """To another device, dtype or layout; torch itself takes this tensor for one on the host."""
        copies = kwargs.pop("copy", False)
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)  # type: ignore[attr-defined]
        if device is not None and device.type == "cpu":
            return aten._to_copy(self, dtype=dtype, device=device, non_blocking=non_blocking, memory_format=layout)
        if copies:
            return aten._to_copy(self, dtype=dtype, memory_format=layout)
        return super().to(dtype or self.dtype, memory_format=layout or torch.preserve_format)

    def cpu(self, *_: Any, **__: Any) -> Tensor:  # type: ignore[override]
        """On the host."""
        return self.to("cpu")

    def new_tensor(self, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """Numbers from the host."""
        return torch.tensor(*args, **{"dtype": self.dtype, "device": CUDA, **kwargs})

    def __reduce_ex__(self, protocol: Any) -> Any:
        """In a file it is as any tensor, once that is read onto the host."""
        return self.held.__reduce_ex__(protocol)

    def tolist(self) -> Any:
        """Waits for the numbers."""
        assert StandIn.current is not None
        StandIn.current.wait("tolist")
        return self.held.tolist()

    def __repr__(self, *_: Any, **__: Any) -> str:
        return f"OnDevice({self.held!r})"


class OnDeviceGenerator(torch.Generator):
    """A generator that knows where it is."""

    on: torch.device

    def __new__(cls, device: Any = "cpu") -> OnDeviceGenerator:
        made: OnDeviceGenerator = super().__new__(cls, "cpu")
        made.on = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Without an index where it was made without one."""
        return self.on


class _Functions(TorchFunctionMode):
    """What torch's functions are given before they are taken apart: numbers for the device, and generators."""

    def __init__(self, stand_in: StandIn) -> None:
        super().__init__()
        self._stand_in = stand_in

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if isinstance(generator, torch.Generator):
            wanted = self._place_of(args, kwargs)
            there = getattr(generator, "on", generator.device).type
            if wanted != there:
                raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{there}'")
        if func in _MAKE_TENSORS and "cuda" in str(kwargs.get("device", "cpu")):
            made = func(*args, **{**kwargs, "device": None})
            if isinstance(made, OnDevice):
                return made
            self._stand_in.wait(f"{func.__name__} of numbers on the host")
            return OnDevice(made)
        given = any(isinstance(item, OnDevice) for item in tree_iter((args, kwargs)))
        if not given or kwargs.get("device") is not None or not isinstance(func, _BUILT_IN):
            return func(*args, **kwargs)
        self._stand_in.in_built_in += 1  # what torch makes for itself it makes where its arguments lie
        try:
            return func(*args, **kwargs)
        finally:
            self._stand_in.in_built_in -= 1

    @staticmethod
    def _place_of(args: Any, kwargs: Any) -> str:
        if kwargs.get("device") is not None:
            return torch.device(kwargs["device"]).type
        return next((item.device.type for item in tree_iter((args, kwargs)) if isinstance(item, Tensor)), "cpu")


class StandIn(TorchDispatchMode):
    """The device while it is there; made by `stand_in_gpu`.

    Attributes:
        waited: what made the host wait, and where in the project, since the list was last cleared.
        capturing: whether steps are recorded, which a wait ends with torch's error.
    """

    current: StandIn | None = None

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []
        self.capturing = False
        self.in_built_in = 0

    def wait(self, what: str) -> None:
        """Notes it."""
        what = f"{what} at {_asker()}"
        if self.capturing:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {what}")
        self.waited.append(what)

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation, where its tensors are."""
        tensors = [item for item in tree_iter((args, kwargs)) if isinstance(item, Tensor)]
        on_device = any(isinstance(tensor, OnDevice) for tensor in tensors)
        target = kwargs.get("device")
        to_device = on_device if target is None else torch.device(target).type == "cuda"
        to_device |= self.in_built_in > 0 or (target is not None and _asked_by_autograd())
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}
        if not on_device and not to_device:
            return func(*args, **kwargs)
        if func is aten.lift_fresh.default and not on_device and args[0].dim():
            self.wait("a list of the host's numbers")
        if on_device and waits(func, args):
            self.wait(str(func))
        if on_device or func in _TRANSFERS:
            self._check(func, args, kwargs, tensors, to_device)
        known = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, OnDevice)}
        inner_args, inner_kwargs = tree_map(_held, (list(args), kwargs))
        if target is not None:
            inner_kwargs["device"] = torch.device("cpu")
        made = func(*inner_args, **inner_kwargs)
        if not to_device:
            return tree_map(lambda item: item.clone() if any(item is one for one in inner_args) else item, made)
        if func is aten.copy_.default and not isinstance(args[0], OnDevice):
            return args[0]
        return tree_map(lambda item: _placed(item, known), made)

    def _check(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], to_device: bool) -> None:
        hosts = [tensor for tensor in tensors if not isinstance(tensor, OnDevice)]
        if func is aten._to_copy.default:
            if bool(hosts) == to_device and not kwargs.get("non_blocking"):
                self.wait("copy to the device" if to_device else "copy to the host")
        elif func is aten.copy_.default:
            if hosts and not (len(args) > 2 and args[2]) and not kwargs.get("non_blocking"):
                self.wait("copy between host and device")
        elif hosts and func in _INDEXED_FROM_HOST and isinstance(args[0], OnDevice):
            self.wait("index on the host")
        elif any(tensor.dim() for tensor in hosts) or (hosts and not _takes_numbers(func)):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
                f" ({func} at {_asker()})"
            )


def _takes_numbers(func: Any) -> bool:
    """Whether a tensor on the host is a number to an operation on a GPU, where it has no dimensions."""
    return torch.Tag.pointwise in func.tags or func is aten.fill_.Tensor


def _held(item: Any) -> Any:
    return item.held if isinstance(item, OnDevice) else item


def _placed(item: Any, known: dict[int, OnDevice]) -> Any:
    if not isinstance(item, Tensor):
        return item
    return known[id(item)] if id(item) in known else OnDevice(item)


def _asker() -> str:
    """The line of the project's code that is at work."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if (ROOT / "akdtune") in path.parents:
            return f"{path.relative_to(ROOT)}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


def _asked_by_autograd() -> bool:
    """Whether torch's own derivatives ask: for zeros where it takes the tensors to lie, which is the host here."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.endswith(_BETWEEN):
        frame = frame.f_back
    return frame.f_code.co_name == "_engine_run_backward"


class Tape:
    """Records a step as a CUDA graph does: a list of operations, with the tensors that they read and write.

    Replayed, they run again on the same tensors; no line of the step's Python does, so that what it decided, counted or
    knew as a number stays as it was when it was recorded.
    """

    def __init__(self) -> None:
        self.recordings = self.launches = 0

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Nowhere else."""
        yield

    def record(
        self, work: Callable[[], dict[str, Tensor]], generators: Sequence[torch.Generator]
    ) -> tuple[Callable[[], None], dict[str, Tensor]]:
        """Runs the step once to record it; what that changed is undone by whoever asks, as with Python's part."""
        self.recordings += 1
        stand_in, noted = StandIn.current, _Noted()
        if stand_in is not None:
            stand_in.capturing = True
        try:
            with noted:
                values = work()
        finally:
            if stand_in is not None:
                stand_in.capturing = False

        def launch() -> None:
            self.launches += 1
            noted.replay()

        return launch, values


class _Noted(TorchDispatchMode):
    """Notes operations in their order."""

    def __init__(self) -> None:
        super().__init__()
        self._done: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if torch.Tag.inplace_view in func.tags:
            return made  # changes a shape, and no number
        args, kwargs = tree_map(_as_it_lies, (args, kwargs or {}))
        if any(isinstance(part, OnDevice) for part in tree_iter(made)) and "device" in kwargs:
            kwargs = {**kwargs, "device": CUDA}  # wherever it was asked from
        is_new = not any(part.alias_info for part in func._schema.returns)
        new = [_as_it_lies(part) for part in tree_iter(made) if isinstance(part, Tensor)] if is_new else []
        self._done.append((func, args, kwargs, new))
        return made

    @torch.no_grad()
    def replay(self) -> None:
        """Does them again: what was new is written where it lay."""
        for func, args, kwargs, made in self._done:
            again = [part for part in tree_iter(func(*args, **kwargs)) if isinstance(part, Tensor)]
            for there, new in zip(made, again, strict=False):
                there.copy_(new)


def _as_it_lies(item: Any) -> Any:
    """The same numbers in a tensor of its own: its shape stays when the other's is changed."""
    return aten.detach.default(item) if isinstance(item, Tensor) else item


@contextlib.contextmanager
def stand_in_gpu() -> Iterator[StandIn]:
    """A machine with one GPU, within the block."""
    torch._C._ensureCUDADeviceGuardSet()  # as torch's fake tensors do: `cuda` may be named without a driver
    stand_in = StandIn()
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "is_available": lambda: True,
            "_lazy_init": lambda: None,
            "mem_get_info": lambda *_: (2**34, 2**34),
            "get_device_name": lambda *_: NAME,
            "max_memory_allocated": lambda *_: 2**20,
            "reset_peak_memory_stats": lambda *_: None,
            "synchronize": lambda *_: None,
            "manual_seed_all": lambda *_: None,
            "get_rng_state": lambda *_: torch.get_rng_state(),
            "set_rng_state": lambda state, *_: torch.set_rng_state(state),
            "is_current_stream_capturing": lambda: stand_in.capturing,
            "Event": _Event,
        }.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch, "Generator", OnDeviceGenerator)
        autocast = torch.autocast
        patch.setattr(torch, "autocast", lambda _, *rest, **named: autocast("cpu", *rest, **named))
        patch.setattr(StandIn, "current", stand_in)
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            with _Functions(stand_in), stand_in:
                yield stand_in
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swapped)


class _Event:
    def record(self, *_: Any) -> None:
        """Nothing runs later."""

    def synchronize(self) -> None:
        """It has."""
