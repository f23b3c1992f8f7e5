"""Models without memory for their weights: built on torch's meta device, and filled on the device that uses them.

    without_weights    builds models whose parameters are on the meta device; their buffers are real
    RecordedInit       remembers how parameters on the meta device were initialised, to make any one of them later
    allocate           gives them memory on a device
    fill               copies the values, one tensor at a time

So a process never has a whole model in the CPU's memory, unless the CPU is the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_CHUNK = 1 << 24
"""The number of values drawn at once. A multiple of 16: torch draws normal values in groups of 16."""
_OVERWRITES = ("aten::normal_", "aten::uniform_", "aten::zero_", "aten::fill_")


def without_weights() -> AbstractContextManager[None]:
    """Inside, modules get their parameters on the meta device, and their buffers on the CPU with their values."""
    return init_empty_weights(include_buffers=False)


@dataclass(frozen=True)
class _Call:
    """A call of an operator that changes a tensor in place."""

    operator: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    view: tuple[tuple[int, ...], tuple[int, ...], int]
    """Size, stride and offset of what it changed."""
    rng_state: torch.Tensor | None
    """torch's random state before the call; None if it draws nothing."""


class RecordedInit(TorchDispatchMode):
    """Remembers how tensors on the meta device are initialised inside; `tensor` makes the values of any of them later.

    Random values are drawn inside as if the tensors were in memory, and thrown away. So the values, and torch's random
    state at the end, are bit for bit those of a model that is built in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[int, list[_Call]] = {}
        self._storages: list[torch.UntypedStorage] = []  # kept, so that no two have the same address

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        if func._schema.is_mutable and args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            self._record(func, args[0], args[1:], keywords)
        return func(*args, **keywords)

    def _record(
        self, operator: Any, target: torch.Tensor, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        rng_state = None
        if torch.Tag.nondeterministic_seeded in operator.tags:
            rng_state = torch.get_rng_state()
            _draw(operator, target, arguments, keywords)
        storage = target.untyped_storage()
        if storage._cdata not in self._calls:
            self._calls[storage._cdata] = []
            self._storages.append(storage)
        calls = self._calls[storage._cdata]
        if operator._schema.name in _OVERWRITES and target.nbytes == storage.nbytes():
            calls.clear()
        view = (tuple(target.shape), target.stride(), int(target.storage_offset()))
        calls.append(_Call(operator, arguments, keywords, view, rng_state))

    @torch.no_grad()
    def tensor(self, meta: torch.Tensor) -> torch.Tensor:
        """The values on the CPU of a tensor on the meta device; torch's random state does not change."""
        values = torch.empty(meta.shape, dtype=meta.dtype, device="cpu")
        before = torch.get_rng_state()
        try:
            for call in self._calls[meta.untyped_storage()._cdata]:
                tensors = [value for value in call.arguments if isinstance(value, torch.Tensor)]
                assert not any(value.is_meta for value in tensors), f"{call.operator} copies values that do not exist"
                if call.rng_state is not None:
                    torch.set_rng_state(call.rng_state)
                call.operator(values.as_strided(*call.view), *call.arguments, **call.keywords)
        finally:
            torch.set_rng_state(before)
        return values


def _draw(operator: Any, target: torch.Tensor, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """Draws what the call draws, a chunk at a time."""
    num_left = target.numel()
    while num_left:
        # A rest of fewer than 16 values would be drawn in another way than as the end of a larger tensor.
        num = num_left if num_left < _CHUNK + 16 else _CHUNK
        operator(torch.empty(num, dtype=target.dtype, device="cpu"), *arguments, **keywords)
        num_left -= num


@torch.no_grad()
def allocate(model: nn.Module, device: torch.device) -> set[str]:
    """Gives parameters on the meta device memory on ``device``; returns their names.

    All other parameters and buffers move there with their values. The new memory has any values: `fill` it.
    """
    present = {name: tensor.detach() for name, tensor in _tensors(model) if not tensor.is_meta}
    absent = {name for name, tensor in _tensors(model) if tensor.is_meta}
    model.to_empty(device=device)
    for name, tensor in _tensors(model):
        if name in present:
            tensor.copy_(present[name])
    return absent


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))


@torch.no_grad()
def fill(model: nn.Module, weights: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """`allocate`, and copy the values from ``weights``, by the names of the model's state."""
    absent = allocate(model, device)
    for name, tensor in model.state_dict().items():
        if name in absent:
            tensor.copy_(weights[name])
