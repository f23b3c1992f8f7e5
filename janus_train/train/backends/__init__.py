"""The ways to distribute training over processes: DDP, DeepSpeed ZeRO and FSDP2, behind one `Backend` interface."""

from __future__ import annotations

from transformers import JanusForConditionalGeneration

from janus_train.config import Config
from janus_train.train.backends.base import Backend, ParameterShard, Weights
from janus_train.train.distributed.context import Distributed

__all__ = ["Backend", "ParameterShard", "make_backend"]


def make_backend(
    janus: JanusForConditionalGeneration, config: Config, distributed: Distributed, weights: Weights | None = None
) -> Backend:
    """Put ``janus`` on this run's devices with the launched backend.

    Its trainable parts are set (`parts.set_trainable`). ``weights``: the values of parameters that are on the meta
    device, by name; each rank reads one tensor at a time, and only what it keeps if the weights are sharded.
    """
    backend = _make(janus, config, distributed, weights)
    if config.run.ema is not None:
        backend.start_average(config.run.ema)
    return backend


def _make(
    janus: JanusForConditionalGeneration, config: Config, distributed: Distributed, weights: Weights | None
) -> Backend:
    if distributed.backend == "zero":
        from janus_train.train.backends.zero import DeepSpeedZeRO  # DeepSpeed takes seconds to import

        return DeepSpeedZeRO(janus, config, distributed, weights)
    if distributed.backend == "fsdp2":
        from janus_train.train.backends.fsdp2 import FSDP2

        return FSDP2(janus, config, distributed, weights)
    from janus_train.train.backends.ddp import DDP

    return DDP(janus, config, distributed, weights)
