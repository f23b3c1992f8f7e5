"""FSDP2: all weights, their gradients and their moments are sharded by rows (torch's ``fully_shard``).

Accelerate starts the ranks and reads the launch file. The wrapping is done here, because Accelerate skips it on a CPU
and the VQ encoder must not be sharded. A unit is gathered at a time: each layer of the language model and of the
understanding encoder, the text embedding and both heads; the remaining small modules form one more unit.

With ``fsdp_sharding_strategy: HYBRID_SHARD`` a node's ranks shard the model among themselves, and all nodes have the
same shards (HSDP): weights are gathered inside a node only, and gradients are averaged across nodes once in a step.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import JanusForConditionalGeneration

from janus_train.config import Config
from janus_train.errors import UserError
from janus_train.model.janus import PackedJanus
from janus_train.model.meta_init import allocate
from janus_train.train.backends.base import MOMENTS, ParameterShard, Sharded, Weights, equal_share
from janus_train.train.distributed.context import Distributed
from janus_train.train.optim import make_optimizer


class FSDP2(Sharded):
    """Weights, gradients and moments are sharded; gradients are averaged and sharded in every micro-batch.

    Across the replicas of a shard, if there are several, gradients are averaged in a step's last micro-batch.
    """

    def __init__(
        self,
        janus: JanusForConditionalGeneration,
        config: Config,
        distributed: Distributed,
        weights: Weights | None = None,
    ):
        super().__init__(janus, config, distributed)
        device = distributed.device
        self._num_shards = ranks_per_shard_group(distributed)
        self._num_replicas = distributed.world_size // self._num_shards
        self._replica, self._shard = divmod(distributed.rank, self._num_shards)
        mesh = _mesh(device.type, self._num_replicas, self._num_shards)
        keep_weights_gathered = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "false"
        fp32_policy = MixedPrecisionPolicy(cast_forward_inputs=False)
        # In bf16 runs the language model's layers and the heads are gathered in bf16, to which autocast would round them
        # anyway, and gradients are reduced in fp32. The embedding stays fp32 because it makes the residual stream, the
        # vision layers because LayerNorm needs its weights in the type of its input.
        bf16_policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        # DoRA divides a weight's magnitudes by its rows' norms, which bf16 would round to 1 part in 256 each.
        has_norms = config.peft is not None and config.peft.use_dora
        layer_policy = bf16_policy if config.precision == "bf16" and not has_norms else fp32_policy
        model = PackedJanus(janus)
        encoder = janus.model.vqmodel
        if weights is None:
            encoder.to(device)
        janus_model = janus.model
        bf16_units: list[nn.Module] = [*janus_model.language_model.layers, janus.lm_head, janus_model.generation_head]
        fp32_units: list[nn.Module] = [*janus_model.vision_model.encoder.layers, janus.get_input_embeddings()]
        for units, units_policy in ((bf16_units, layer_policy), (fp32_units, fp32_policy)):
            for unit in units:
                fully_shard(unit, mesh=mesh, mp_policy=units_policy, reshard_after_forward=not keep_weights_gathered)
        fully_shard(model, mesh=mesh, mp_policy=fp32_policy, ignored_params=set(encoder.parameters()))
        if weights is not None:
            self._fill(model, weights)
        assert isinstance(model, FSDPModule)
        self.model = self._fsdp_model = model
        self.optimizer = make_optimizer(model, config.optim)

    @contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        if self._num_replicas > 1:
            self._fsdp_model.set_requires_all_reduce(last)
        yield

    @contextmanager
    def forward_only(self) -> Iterator[None]:
        """As in `Backend`; what a forward pass leaves gathered for the backward pass is given back."""
        with super().forward_only():
            yield
        for module in self._fsdp_model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    @torch.no_grad()
    def _fill(self, model: PackedJanus, weights: Weights) -> None:
        """Give the sharded model its memory, and read this rank's rows of each tensor."""
        allocate(model, self.distributed.device)
        for name, parameter in self.janus.named_parameters():
            if isinstance(parameter, DTensor):
                rows = parameter.to_local()
                rows.copy_(weights[name].narrow(0, self._first_row(parameter.shape[0]), rows.shape[0]))
            else:
                parameter.copy_(weights[name])

    def _shards(self) -> list[ParameterShard]:
        shards = []
        for name, shape in self.shapes.items():
            parameter = self.janus.get_parameter(name)
            assert isinstance(parameter, DTensor)
            weight = parameter.to_local().detach().view(-1)
            if weight.numel():
                state = self.optimizer.state.get(parameter, {})
                moments = {key: state[key].to_local().view(-1) for key in MOMENTS if key in state}
                shards.append(ParameterShard(name, self._first_row(shape[0]) * math.prod(shape[1:]), weight, moments))
        return shards

    def checkpoint_shards(self) -> list[ParameterShard]:
        """The replicas of a shard save an equal share of it each."""
        return equal_share(self.local_shards(), self._replica, self._num_replicas)

    def _first_row(self, rows: int) -> int:
        """The first row on this rank: rows are split into equal blocks, the last ones smaller or empty."""
        return min(rows, self._shard * -(-rows // self._num_shards))

    def full_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self.janus.state_dict().items():
            yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def ranks_per_shard_group(distributed: Distributed) -> int:
    """The number of ranks that share one copy of the model: all, or with ``HYBRID_SHARD`` those of a node.

    Raises `UserError` if the nodes have different numbers of ranks.
    """
    if not distributed.shards_within_node:
        return distributed.world_size
    num_local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", distributed.world_size))
    with distributed.raise_on_all_ranks():
        if any(number != num_local_ranks for number in distributed.gather([num_local_ranks])):
            raise UserError(
                "fsdp_sharding_strategy: HYBRID_SHARD needs the same number of processes on every node: start as many "
                "on each, or use launch/accelerate/fsdp2.yaml"
            )
    return num_local_ranks


def _mesh(device_type: str, num_replicas: int, num_shards: int) -> DeviceMesh:
    """Ranks of a node are next to each other: rank r has shard r % num_shards of replica r // num_shards."""
    if num_replicas == 1:
        return init_device_mesh(device_type, (num_shards,))
    return init_device_mesh(device_type, (num_replicas, num_shards), mesh_dim_names=("replicate", "shard"))
