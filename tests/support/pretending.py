"""A device that is no CPU, where there is none: tensors pretend.

They say that they are elsewhere, hold their values in main memory all the same, and refuse to be computed
with tensors that do not pretend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")  # the only other one that every build of torch knows
# These take tensors in main memory beside the device's own.
CROSSING = ("aten.copy_", "aten.to", "aten._to_copy")


class Pretending(Tensor):
    """A tensor that says it is on DEVICE."""

    held: Tensor

    @staticmethod
    def __new__(cls: type[Pretending], values: Tensor) -> Pretending:
        made: Pretending = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        made.held = values
        return made

    # Neither is dispatched by torch.
    def tolist(self) -> Any:
        return self.held.tolist()

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(Pretending(torch.tensor(index)) if isinstance(index, list) else index)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return computed(function, args, kwargs or {})


class Pretence(TorchDispatchMode):
    """What is made on DEVICE pretends, too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return computed(function, args, kwargs or {})


def computed(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = str(function).rpartition(".")[0]
    given = tree_leaves((args, kwargs))
    tensors = [each for each in given if isinstance(each, Tensor)]
    away = [each for each in tensors if isinstance(each, Pretending)]
    if away and name not in CROSSING:
        here = [each for each in tensors if each.dim() and not isinstance(each, Pretending)]
        assert not here, f"{name} mixes devices"
    result = function(*tree_map(in_memory, args), **tree_map(in_memory, kwargs))
    if name.endswith("_") and not name.endswith("__"):
        return args[0]
    if "out" in kwargs:
        return kwargs["out"]
    devices = [each for each in given if isinstance(each, torch.device)]
    if str(function) == "aten.to.other":
        devices = [args[1].device]
    pretends = devices[0] == DEVICE if devices else bool(away)
    return (
        tree_map(lambda each: Pretending(each) if isinstance(each, Tensor) else each, result)
        if pretends
        else result
    )


def in_memory(value: Any) -> Any:
    if isinstance(value, Pretending):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) else value


def sent_away(network: nn.Module) -> None:
    """Parameters and buffers pretend from now on."""
    for module in network.modules():
        tensors: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for named in tensors:
            named.update({name: Pretending(each.data) for name, each in named.items() if each is not None})
