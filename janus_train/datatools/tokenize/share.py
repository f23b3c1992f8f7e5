"""Finds this process's index among the processes that share the tars, and its GPU."""

from __future__ import annotations

import os

import torch

from janus_train.errors import UserError


def process_share(process_index: int | None, num_processes: int | None) -> tuple[int, int]:
    """(index, number of processes), from the arguments or else from torchrun's environment. Raises `UserError`."""
    try:
        index = int(os.environ.get("RANK", "0")) if process_index is None else process_index
        number = int(os.environ.get("WORLD_SIZE", "1")) if num_processes is None else num_processes
    except ValueError:
        raise UserError("RANK and WORLD_SIZE of the environment are not integers") from None
    if not 0 <= index < number:
        raise UserError(f"process {index} of {number} does not exist: --process-index counts from 0 to {number - 1}")
    return index, number


def process_device(kind: str, process_index: int) -> torch.device:
    """The CPU, or the GPU of this process."""
    if kind == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", process_index)) % torch.cuda.device_count())
