"""The process group: this rank, sums over all ranks, and the launched backend.

Accelerate starts the group from what ``accelerate launch`` (or ``torchrun`` with the same variables) has set; the files
in launch/accelerate/ choose the backend. Accelerate does not divide the loss, deal the data (it would send rank 0's) or
step the schedule (it would do so once per process): the trainer does.

On a machine without a GPU the same files start the same backends on the CPU, over gloo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from janus_train.config import Config
from janus_train.cpu import available_cores, requested_threads
from janus_train.errors import UserError
from janus_train.lifetime import is_launched

BackendName = Literal["ddp", "zero", "fsdp2"]


class Distributed:
    """One process's view of the group: rank, device and the collectives that training needs."""

    def __init__(self, config: Config):
        self.backend = _launched_backend()
        on_gpu = torch.cuda.is_available() and not _is_set("ACCELERATE_USE_CPU")
        if not on_gpu:  # even without DeepSpeed: transformers imports it if it is installed
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
            if self.backend == "zero":
                _without_shared_memory()
                os.environ.pop("ACCELERATE_USE_CPU", None)  # `use_cpu: true` would make Accelerate skip DeepSpeed
        self.accelerator = Accelerator(
            cpu=not on_gpu and self.backend != "zero",  # for the same reason
            kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")]
            if "LOCAL_RANK" in os.environ and not on_gpu
            else [],
            mixed_precision="no",  # the backends own the precision
        )
        if self.backend == "zero":
            # Otherwise transformers would shard each model as soon as it creates it.
            self.accelerator.state.deepspeed_plugin.dschf = None
        self._bf16 = config.precision == "bf16"
        self.threads_are_users = False
        """Whether the number of CPU threads is the user's OMP_NUM_THREADS."""
        if self.device.type == "cpu":
            self._set_threads(config.run.cpu_threads)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def world_size(self) -> int:
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def gathers_inside_layers(self) -> bool:
        """Whether every linear layer's weights are gathered around its own call, as in ZeRO-3."""
        return self.backend == "zero" and self._zero_options.get("stage") == 3

    @property
    def backend_name(self) -> str:
        """The backend as messages name it: DDP, ZeRO-2, ZeRO-3 with offloading, FSDP2."""
        if self.backend != "zero":
            return self.backend.upper()
        devices = [self._zero_options.get(f"offload_{what}", {}).get("device") for what in ("optimizer", "param")]
        offloads = any(device not in (None, "none") for device in devices)
        return f"ZeRO-{self._zero_options['stage']}{' with offloading' if offloads else ''}"

    @property
    def _zero_options(self) -> dict[str, Any]:
        return self.accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]

    @property
    def shards_weights(self) -> bool:
        """Whether no rank has all weights: FSDP2 and ZeRO-3."""
        return self.backend == "fsdp2" or self.gathers_inside_layers

    @property
    def shards_within_node(self) -> bool:
        """Whether FSDP2 shards over the ranks of a node, and every node has a replica."""
        return self.backend == "fsdp2" and _sharding_strategy() == "HYBRID_SHARD"

    def autocast(self) -> torch.autocast:
        """Matrix products in bf16 if the run's precision is bf16; weights and sums stay fp32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16)

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sums over all ranks."""
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)  # on the host: by gloo, without waiting for the GPU
        torch.distributed.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, items: list[Any]) -> list[Any]:
        """All ranks' items, in the order of the ranks."""
        if self.world_size == 1:
            return list(items)
        items_by_rank: list[list[Any]] = [[] for _ in range(self.world_size)]
        torch.distributed.all_gather_object(items_by_rank, items)
        return [item for rank_items in items_by_rank for item in rank_items]

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """All ranks run the block.

        If any raises `UserError`, all raise the first rank's, so that none continues alone.
        """
        message = None
        try:
            yield
        except UserError as error:
            message = str(error)
        messages = [text for text in self.gather([message]) if text is not None]
        if messages:
            raise UserError(messages[0])

    @contextmanager
    def local_main_first(self) -> Iterator[None]:
        """Each machine's first process runs the block before the others, so that they find what it has fetched."""
        with self.accelerator.local_main_process_first():
            yield

    def barrier(self) -> None:
        if self.world_size > 1:
            torch.distributed.barrier()

    def _set_threads(self, option: int | None) -> None:
        """Use the option's number of threads, else the user's, else a share of the cores. Launchers would use one."""
        users = requested_threads(is_launched())
        self.threads_are_users = option is None and users is not None
        share = max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size)))
        torch.set_num_threads(option or users or share)


def destroy_process_group() -> None:
    """Leave the process group: NCCL warns about processes that exit without it."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _launched_backend() -> BackendName:
    """The backend, by the variables that ``accelerate launch`` sets.

    Raises `UserError` if it is unsupported or not installed.
    """
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        if find_spec("deepspeed") is None:
            raise UserError(
                "the launch configuration asks for DeepSpeed, which is not installed: pip install deepspeed"
            )
        if "LOCAL_RANK" not in os.environ:
            raise UserError("DeepSpeed needs a launcher even for one process: accelerate launch, or torchrun")
        return "zero"
    if _is_set("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise UserError(
                "the launch configuration asks for FSDP 1: set fsdp_version: 2 (launch/accelerate/fsdp2.yaml)"
            )
        if _is_set("FSDP_OFFLOAD_PARAMS"):
            raise UserError("fsdp_offload_params is not supported: use launch/accelerate/zero3_offload.yaml")
        if _sharding_strategy() not in ("FULL_SHARD", "HYBRID_SHARD"):
            raise UserError(
                f"fsdp_sharding_strategy: {_sharding_strategy()} is not supported: choose FULL_SHARD, or HYBRID_SHARD to "
                "shard within a node (launch/accelerate/hsdp.yaml)"
            )
        if _is_set("ACCELERATE_USE_PARALLELISM_CONFIG"):
            raise UserError(
                "parallelism_config is not supported: launch/accelerate/hsdp.yaml shards within a node and replicates "
                "across nodes"
            )
        if "LOCAL_RANK" not in os.environ:
            raise UserError("FSDP needs a launcher even for one process: accelerate launch, or torchrun")
        return "fsdp2"
    if _is_set("ACCELERATE_USE_MEGATRON_LM"):
        raise UserError("Megatron-LM is not supported: choose one of launch/accelerate/*.yaml")
    return "ddp"


def _sharding_strategy() -> str:
    return os.environ.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD").upper()


def _without_shared_memory() -> None:
    """Make DeepSpeed use gloo alone on a CPU: its shared-memory communication is compiled at start-up.

    That needs a C++ compiler, and a start that is killed meanwhile leaves a lock on which later starts wait.
    """
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1", "yes")
