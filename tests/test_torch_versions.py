"""The keywords that this version of torch has are those that it is called with."""

from __future__ import annotations

import inspect
import warnings

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.parallel import DistributedDataParallel

from janus_train.torch_versions import NO_BUFFER_SYNC, VARLEN_TAKES_GROUPS, takes


def test_a_keyword_is_found_by_the_signature() -> None:
    def older(module: object, broadcast_buffers: bool = True) -> None: ...
    def newer(module: object, forward_sync_buffers: bool = True) -> None: ...

    assert takes(newer, "forward_sync_buffers") and not takes(older, "forward_sync_buffers")


def test_the_kernel_can_be_called_so() -> None:
    options = {"enable_gqa": True} if VARLEN_TAKES_GROUPS else {}
    inspect.signature(varlen_attn).bind(*"qkvbbll", scale=1.0, window_size=(-1, 0), **options)


def test_ddp_copies_no_buffers_and_warns_of_nothing() -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            model = DistributedDataParallel(torch.nn.BatchNorm1d(2), **NO_BUFFER_SYNC)
        assert not model.will_sync_module_buffers()
    finally:
        torch.distributed.destroy_process_group()
