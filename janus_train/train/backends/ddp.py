"""DDP: each process has the whole model, and gradients are averaged on the last backward of a step.

It is also the backend of a run of one process.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import JanusForConditionalGeneration

from janus_train.config import Config
from janus_train.model.janus import PackedJanus
from janus_train.model.meta_init import fill
from janus_train.torch_versions import NO_BUFFER_SYNC
from janus_train.train.backends.base import MOMENTS, Backend, ParameterShard, Weights, equal_share
from janus_train.train.distributed.context import Distributed
from janus_train.train.optim import make_optimizer


class DDP(Backend):
    """Nothing is sharded: every rank has all weights, gradients and moments."""

    def __init__(
        self,
        janus: JanusForConditionalGeneration,
        config: Config,
        distributed: Distributed,
        weights: Weights | None = None,
    ):
        super().__init__(janus, config, distributed)
        if weights is not None:
            fill(janus, weights, distributed.device)
        model: nn.Module = PackedJanus(janus).to(distributed.device)
        if distributed.world_size > 1:
            # Buffers never change. Gradients as views into the buckets avoid a second copy of them.
            model = DistributedDataParallel(model, gradient_as_bucket_view=True, **NO_BUFFER_SYNC)
        self.model = model
        self.optimizer = make_optimizer(model, config.optim)

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _shards(self) -> list[ParameterShard]:
        shards = []
        for name in self.shapes:
            parameter = self.janus.get_parameter(name)
            state = self.optimizer.state.get(parameter, {})
            moments = {key: state[key].view(-1) for key in MOMENTS if key in state}
            shards.append(ParameterShard(name, 0, parameter.detach().view(-1), moments))
        return shards

    def checkpoint_shards(self) -> list[ParameterShard]:
        """This rank's equal share of all elements, in the model's order."""
        return equal_share(self.local_shards(), self.distributed.rank, self.distributed.world_size)
