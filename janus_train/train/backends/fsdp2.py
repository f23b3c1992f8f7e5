"""FSDP2: all weights, their gradients and their moments are sharded by rows (torch's ``fully_shard``).

Accelerate starts the ranks and reads the launch file. The wrapping is done here, because Accelerate skips it on a CPU
and the VQ encoder must not be sharded. A unit is gathered at a time: each layer of the language model and of the
understanding encoder, the text embedding and both heads; the remaining small modules form one more unit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import JanusForConditionalGeneration

from janus_train.config import Config
from janus_train.model.janus import PackedJanus
from janus_train.model.meta_init import allocate
from janus_train.train.backends.base import MOMENTS, ParameterShard, Sharded, Weights
from janus_train.train.distributed.context import Distributed
from janus_train.train.optim import make_optimizer


class FSDP2(Sharded):
    """Weights, gradients and moments are sharded; gradients are averaged and sharded in every micro-batch."""

    def __init__(
        self,
        janus: JanusForConditionalGeneration,
        config: Config,
        distributed: Distributed,
        weights: Weights | None = None,
    ):
        super().__init__(janus, config, distributed)
        device = distributed.device
        mesh = init_device_mesh(device.type, (distributed.world_size,))
        keep_weights_gathered = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "false"
        fp32_policy = MixedPrecisionPolicy(cast_forward_inputs=False)
        # In bf16 runs the language model's layers and the heads are gathered in bf16, to which autocast would round them
        # anyway, and gradients are reduced in fp32. The embedding stays fp32 because it makes the residual stream, the
        # vision layers because LayerNorm needs its weights in the type of its input.
        bf16_policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        layer_policy = bf16_policy if config.precision == "bf16" else fp32_policy
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
        self.model = model
        self.optimizer = make_optimizer(model, config.optim)

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

    def local_shards(self) -> list[ParameterShard]:
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

    def _first_row(self, rows: int) -> int:
        """The first row on this rank: rows are split into equal blocks, the last ones smaller or empty."""
        num_ranks = self.distributed.world_size
        return min(rows, self.distributed.rank * -(-rows // num_ranks))

    def full_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self.janus.state_dict().items():
            yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
