"""What the trainer asks of a backend, and nothing more: gradients, one update, and who keeps which weights.

    ddp     one process, or DDP: every rank has everything
    zero    DeepSpeed's ZeRO 1, 2, 3: optimiser state, gradients, weights are sharded
    fsdp2   torch's fully_shard: all three are sharded

All keep fp32 weights and moments for what trains; ``precision=bf16`` computes matrix products in bf16 (autocast). A
frozen part has neither gradients nor optimiser state nor a second copy. The frozen VQ encoder stays whole everywhere:
it runs only where codes are missing, and gathering it there would wait for ranks that do not come.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import JanusForConditionalGeneration

from janus_train.config import Config
from janus_train.model.build import prepare
from janus_train.train.distributed.context import Distributed
from janus_train.train.optim import set_learning_rate

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's, in torch's names."""


@dataclass
class ParameterShard:
    """Elements ``start ..`` of a trained parameter, flattened row by row, and of its moments: views, to read or fill."""

    name: str
    start: int
    weight: torch.Tensor  # (n,) fp32
    moments: dict[str, torch.Tensor] = field(default_factory=dict)  # (n,) each; none before the first update

    @property
    def stop(self) -> int:
        return self.start + self.weight.numel()

    def narrow(self, start: int, stop: int) -> ParameterShard:
        """The shard's part within elements ``start .. stop`` of the parameter; these must lie inside the shard."""
        first, count = start - self.start, stop - start
        moments = {key: moment.narrow(0, first, count) for key, moment in self.moments.items()}
        return ParameterShard(self.name, start, self.weight.narrow(0, first, count), moments)


class Backend(ABC):
    """A model that is ready to be trained by all ranks together; where nothing else is said, by plain torch."""

    model: nn.Module
    """What is called with a `Batch`."""
    optimizer: torch.optim.Optimizer
    """Torch's AdamW over what this rank updates."""

    def __init__(self, janus: JanusForConditionalGeneration, config: Config, distributed: Distributed):
        self.janus, self.config, self.distributed = janus, config, distributed
        # Taken before anything is sharded: a shard does not know its parameter's shape.
        self.shapes = {name: tuple(p.shape) for name, p in janus.named_parameters() if p.requires_grad}

    # ------------------------------------------------------------------------------------------------------------ step

    def zero_grad(self) -> None:
        """Before a step's first micro-batch."""
        self.optimizer.zero_grad(set_to_none=True)

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of a micro-batch; ``last`` of its step or not."""
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of ``loss``, averaged over ranks when the step is complete."""
        loss.backward()

    def update(self, gradient_clip: float) -> tuple[float, bool]:
        """Clip by the norm over all parameters and ranks, and take one AdamW step if the norm is finite.

        Returns the norm before clipping, and whether the step was taken; the same on all ranks.
        """
        total_norm = torch.nn.utils.clip_grad_norm_(self._updated_parameters(), gradient_clip)
        norm = float(total_norm.full_tensor() if isinstance(total_norm, DTensor) else total_norm)
        # The norm is of averaged gradients, so it is the same on all ranks: all agree.
        applied = math.isfinite(norm)
        if applied:
            self.optimizer.step()
        return norm, applied

    def _updated_parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def set_learning_rate(self, rate: float) -> None:
        set_learning_rate(self.optimizer, rate)

    # ------------------------------------------------------------------------------------------------------ checkpoints

    @abstractmethod
    def local_shards(self) -> list[ParameterShard]:
        """All that this rank keeps in fp32."""

    def checkpoint_shards(self) -> list[ParameterShard]:
        """What this rank writes into a checkpoint: over all ranks, each element of each trained parameter once."""
        return self.local_shards()

    def init_optimizer_state(self) -> None:
        """Give AdamW its state as its first step would make it, zeros, so that `local_shards` has moments to fill."""
        for parameter in self._updated_parameters():
            self.optimizer.state[parameter] = {
                "step": torch.zeros(
                    (), dtype=torch.float32, device=parameter.device
                ),  # fused: on the parameter's device
                **{key: torch.zeros_like(parameter, memory_format=torch.preserve_format) for key in MOMENTS},
            }

    def sync_model_weights(self) -> None:  # noqa: B027
        """After `local_shards` was filled: bring the weights that are computed with into line with it, if they are others."""

    @property
    def optimizer_steps(self) -> int:
        """Updates so far: AdamW's bias correction counts them."""
        return max((int(state["step"]) for state in self.optimizer.state.values() if "step" in state), default=0)

    def set_optimizer_steps(self, steps: int) -> None:
        for state in self.optimizer.state.values():
            state["step"].fill_(steps)

    # ----------------------------------------------------------------------------------------------------- whole model

    def full_state_dict(self) -> dict[str, torch.Tensor] | None:
        """All weights and buffers, whole: on the CPU of rank 0, None elsewhere. All ranks call it."""
        return dict(self.janus.state_dict()) if self.distributed.is_main else None

    def full_model(self) -> JanusForConditionalGeneration | None:
        """A model for rank 0 to generate with: the trained one itself if it is whole, else a copy. All ranks call it."""
        return self.janus if self.distributed.is_main else None


class Sharded(Backend):
    """A backend whose weights no rank has whole."""

    def full_model(self) -> JanusForConditionalGeneration | None:
        state = self.full_state_dict()
        if state is None:
            return None
        model = JanusForConditionalGeneration.from_pretrained(None, config=self.janus.config, state_dict=state)
        return prepare(model).eval().to(self.distributed.device)
