"""The interface between the trainer and a backend: gradients, one update, and which rank keeps which weights.

    ddp     one process, or DDP: every rank has all weights, gradients and optimiser state
    zero    DeepSpeed ZeRO: optimiser state (1), gradients too (2) and weights too (3) are sharded
    fsdp2   torch's fully_shard: all three are sharded, over all ranks or over those of a node

All keep fp32 weights and moments for trained parameters, and save these; ``precision=bf16`` computes matrix products in
bf16 (autocast), and under ZeRO-1 and -2 keeps what autocast rounds in bf16, beside the shards in fp32. A frozen part has no gradients, no optimiser state and no second copy. The frozen VQ encoder is never
sharded: it runs only on ranks whose images lack cached codes, and gathering it there would wait for the other ranks
forever.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import JanusForConditionalGeneration

from janus_train.config import Config
from janus_train.model.build import prepare
from janus_train.model.lora import add_lora
from janus_train.model.meta_init import allocate, without_weights
from janus_train.model.parts import eval_mode
from janus_train.model.precision import cast_to_bf16
from janus_train.train.backends.average import AVERAGE, WeightAverage
from janus_train.train.distributed.context import Distributed
from janus_train.train.optim import LearningRates, set_learning_rates

Weights = Mapping[str, torch.Tensor]
"""Values on the CPU by the names of the model's state, each read when it is asked for."""

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's moments, by torch's names."""


@dataclass
class ParameterShard:
    """A stretch of a trained parameter, of its moments and its average (`average`), from element ``start``.

    The parameter is flattened row by row. The tensors are views, to read or to fill.
    """

    name: str
    start: int
    weight: torch.Tensor  # (n,) fp32
    moments: dict[str, torch.Tensor] = field(default_factory=dict)  # (n,) each; AdamW's: none before the first update

    @property
    def stop(self) -> int:
        return self.start + self.weight.numel()

    def narrow(self, start: int, stop: int) -> ParameterShard:
        """The part of the shard with the parameter's elements ``start`` to ``stop``, which must lie inside it."""
        first, count = start - self.start, stop - start
        moments = {key: moment.narrow(0, first, count) for key, moment in self.moments.items()}
        return ParameterShard(self.name, start, self.weight.narrow(0, first, count), moments)


def equal_share(shards: list[ParameterShard], index: int, count: int) -> list[ParameterShard]:
    """The ``index``-th of ``count`` equal stretches of all elements of ``shards``, in their order."""
    num_elements = sum(shard.weight.numel() for shard in shards)
    begin, end = num_elements * index // count, num_elements * (index + 1) // count
    share, offset = [], 0
    for shard in shards:
        start, stop = max(0, begin - offset), min(shard.weight.numel(), end - offset)
        if start < stop:
            share.append(shard.narrow(shard.start + start, shard.start + stop))
        offset += shard.weight.numel()
    return share


class Backend(ABC):
    """A model that all ranks train together; the default methods use plain torch.

    A subclass takes ``weights`` too (`make_backend`), and gives parameters on the meta device their memory and values.
    """

    model: nn.Module
    """The module to call with a `Batch`."""
    optimizer: torch.optim.Optimizer
    """torch's AdamW over the parameters that this rank updates."""
    average: WeightAverage | None = None
    """The average of the weights, if the run keeps one."""

    def __init__(self, janus: JanusForConditionalGeneration, config: Config, distributed: Distributed):
        self.janus, self.config, self.distributed = janus, config, distributed
        # Recorded before anything is sharded: a shard does not know its parameter's shape.
        self.shapes = {name: tuple(p.shape) for name, p in janus.named_parameters() if p.requires_grad}

    # ------------------------------------------------------------------------------------------------------------ step

    def zero_grad(self) -> None:
        """Clear the gradients before a step's first micro-batch."""
        self.optimizer.zero_grad(set_to_none=True)

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """A context for the forward and backward of a micro-batch; ``last``: whether it is the step's last one."""
        return nullcontext()

    @contextmanager
    def forward_only(self) -> Iterator[None]:
        """A context for forward passes that are not trained on: eval mode, no gradients, the run's precision."""
        with eval_mode(self.model), torch.no_grad(), self.distributed.autocast():
            yield

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of ``loss``, averaged over ranks when the step is complete."""
        loss.backward()

    def update(self, gradient_clip: float) -> tuple[float, bool]:
        """Clip by the gradient norm over all parameters and ranks, and take one AdamW step if the norm is finite.

        Returns the norm before clipping and whether the step was taken, the same on all ranks.
        """
        total_norm = torch.nn.utils.clip_grad_norm_(self._updated_parameters(), gradient_clip)
        norm = float(total_norm.full_tensor() if isinstance(total_norm, DTensor) else total_norm)
        # The gradients are already averaged, so all ranks have the same norm and decide alike.
        applied = math.isfinite(norm)
        if applied:
            self.optimizer.step()
        return norm, applied

    def _updated_parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def set_learning_rates(self, rates: LearningRates) -> None:
        set_learning_rates(self.optimizer, rates)

    # ------------------------------------------------------------------------------------------------------ checkpoints

    def local_shards(self) -> list[ParameterShard]:
        """All trained parameters, moments and averages that this rank keeps in fp32."""
        shards = self._shards()
        for shard, value in zip(shards, self.average.values if self.average else (), strict=self.average is not None):
            shard.moments[AVERAGE] = value
        return shards

    @abstractmethod
    def _shards(self) -> list[ParameterShard]:
        """Those of `local_shards`, in the same order each time, without averages."""

    def checkpoint_shards(self) -> list[ParameterShard]:
        """The shards that this rank saves: all ranks together save each element of each trained parameter once."""
        return self.local_shards()

    def init_optimizer_state(self) -> None:
        """Create AdamW's state as its first step would (zeros), so that `local_shards` has moments to fill."""
        for parameter in self._updated_parameters():
            self.optimizer.state[parameter] = {
                "step": torch.zeros(
                    (), dtype=torch.float32, device=parameter.device
                ),  # fused: on the parameter's device
                **{key: torch.zeros_like(parameter, memory_format=torch.preserve_format) for key in MOMENTS},
            }

    def sync_model_weights(self) -> None:  # noqa: B027
        """Copy the filled `local_shards` into the model's weights, if the backend keeps both."""

    @property
    def optimizer_steps(self) -> int:
        """The number of updates so far, which AdamW's bias correction needs."""
        return max((int(state["step"]) for state in self.optimizer.state.values() if "step" in state), default=0)

    def set_optimizer_steps(self, steps: int) -> None:
        for state in self.optimizer.state.values():
            state["step"].fill_(steps)

    # ---------------------------------------------------------------------------------------------------------- average

    def start_average(self, decay: float) -> None:
        """Keep an average of the weights, which starts at the current ones."""
        self.average = WeightAverage(self._weights(), decay)

    def update_average(self) -> None:
        """Take the weights of an update into the average, if there is one."""
        if self.average is not None:
            self.average.update(self._weights())

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the model has the averages for weights; afterwards it has its own again. All ranks use it together."""
        assert self.average is not None
        self.average.swap(self._weights())
        self.sync_model_weights()
        yield
        self.average.swap(self._weights())
        self.sync_model_weights()

    def _weights(self) -> list[torch.Tensor]:
        return [shard.weight for shard in self._shards()]

    # ------------------------------------------------------------------------------------------------------ full model

    def full_state_dict(self) -> dict[str, torch.Tensor] | None:
        """All weights and buffers, unsharded: on rank 0's CPU, None on the other ranks. All ranks call it."""
        return dict(self.janus.state_dict()) if self.distributed.is_main else None

    def full_model(self) -> JanusForConditionalGeneration | None:
        """A model with which rank 0 can generate: the trained one if it is not sharded, else a copy.

        All ranks call it.
        """
        return self.janus if self.distributed.is_main else None


class Sharded(Backend):
    """A backend that shards the weights: no rank has all of them."""

    @abstractmethod
    def full_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All weights and buffers on the device, gathered one at a time: each is valid until the next. All ranks iterate."""

    def full_state_dict(self) -> dict[str, torch.Tensor] | None:
        weights = {}
        for name, tensor in self.full_tensors():
            if self.distributed.is_main:
                weights[name] = tensor.to("cpu", copy=True)
        return weights if self.distributed.is_main else None

    def full_model(self) -> JanusForConditionalGeneration | None:
        """As in `Backend`, in bf16 but for the VQ tokenizer if the run computes in bf16.

        Raises torch.OutOfMemoryError on all ranks if there is no room for it on rank 0's device.
        """
        model, is_full = None, False
        if self.distributed.is_main:
            try:
                model = self._empty_model()
            except torch.OutOfMemoryError:
                is_full = True
        # All ranks know it before the first tensor is gathered: none waits for a rank that has given up.
        if self.distributed.sum([float(is_full)]) != [0.0]:
            raise torch.OutOfMemoryError("there is no room for a copy of the whole model beside the training")
        targets = {} if model is None else model.state_dict()
        for name, tensor in self.full_tensors():
            if name in targets:
                targets.pop(name).copy_(tensor)
        assert not targets, f"{min(targets)} was not gathered"
        return model

    def _empty_model(self) -> JanusForConditionalGeneration:
        """A model without values on the device."""
        with without_weights():
            model = prepare(JanusForConditionalGeneration(copy.deepcopy(self.janus.config)))
            if self.config.peft is not None:
                add_lora(model, self.config.peft)
        model.eval().requires_grad_(False)
        if self.config.precision == "bf16":
            cast_to_bf16(model)
        allocate(model, self.distributed.device)
        # Gathering takes its tensor and a padded copy of it: that must not fail later, when other ranks wait.
        largest = max(parameter.numel() for parameter in model.parameters())
        torch.empty(2 * largest, dtype=torch.float32, device=self.distributed.device)
        return model
