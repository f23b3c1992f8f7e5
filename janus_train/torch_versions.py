"""What torch 2.11 to 2.14 spell differently, found by the functions' signatures and not by version numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch.nn.attention.varlen import varlen_attn
from torch.nn.parallel import DistributedDataParallel


def takes(function: Callable[..., Any], keyword: str) -> bool:
    """Whether ``function`` has a parameter named ``keyword``."""
    return keyword in inspect.signature(function).parameters


VARLEN_TAKES_GROUPS = takes(varlen_attn, "enable_gqa")
"""Whether `varlen_attn` takes fewer heads of keys and values than of queries; before torch 2.12 they have to be repeated."""

NO_BUFFER_SYNC: dict[str, Any] = {
    "forward_sync_buffers" if takes(DistributedDataParallel, "forward_sync_buffers") else "broadcast_buffers": False
}
"""The argument with which `DistributedDataParallel` leaves buffers alone in each forward pass."""
