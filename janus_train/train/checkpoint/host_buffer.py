"""The CPU memory that every save copies its shards into.

It is taken once and kept, because fresh pages for each save cost more time than the copies into them. If the shards are
on a GPU, it is page-locked: the GPU copies into it by itself, at the bus's full speed, all shards before the CPU waits once.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from janus_train.train.backends import ParameterShard

logger = logging.getLogger(__name__)


class HostBuffer:
    """One rank's buffer of fp32 values; it grows to what the largest save needs and then stays.

    `copy` overwrites the previous copies, so there is one save at a time.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._values = torch.empty(0, dtype=torch.float32)
        self._is_pinned = False

    def copy(self, shards: list[ParameterShard]) -> list[ParameterShard]:
        """Copies of ``shards`` in the buffer, complete on return. Training may change the shards afterwards."""
        self._reserve(sum(shard.weight.numel() * (1 + len(shard.moments)) for shard in shards))
        used = 0

        def copied(values: torch.Tensor) -> torch.Tensor:
            nonlocal used
            target = self._values[used : used + values.numel()]
            used += values.numel()
            return target.copy_(values.detach(), non_blocking=self._is_pinned)

        copies = [
            ParameterShard(
                shard.name,
                shard.start,
                copied(shard.weight),
                {key: copied(moment) for key, moment in shard.moments.items()},
            )
            for shard in shards
        ]
        if self._is_pinned:
            torch.cuda.current_stream(self._device).synchronize()
        return copies

    def close(self) -> None:
        """Give the memory back. Copies in it are not valid any more."""
        if self._is_pinned:
            _cuda_runtime().cudaHostUnregister(self._values.data_ptr())
            self._is_pinned = False
        self._values = torch.empty(0, dtype=torch.float32)

    def _reserve(self, num: int) -> None:
        if num <= self._values.numel():
            return
        self.close()
        self._values = torch.empty(num, dtype=torch.float32)
        if self._device.type == "cuda":
            # torch's own page-locked memory comes in powers of two, which can be almost twice what is needed.
            error = _cuda_runtime().cudaHostRegister(self._values.data_ptr(), self._values.nbytes, 0)
            self._is_pinned = int(error) == 0
            if not self._is_pinned:
                logger.warning(
                    f"{self._values.nbytes / 1e9:.1f} GB for saving checkpoints cannot be page-locked (CUDA error "
                    f"{int(error)}): each save holds training longer"
                )


def _cuda_runtime() -> Any:
    return torch.cuda.cudart()
