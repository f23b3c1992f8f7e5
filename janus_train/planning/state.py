"""Bytes of weights, gradients and optimiser on one GPU, under each sharding strategy.

In: how many parameters train and how many are frozen (LoRA's adapters among the former), the number of GPUs, the
precision. Out: `State`. It follows what the trainer keeps: fp32 weights and moments for what trains; in bf16 runs autocast adds
a narrow copy of each matrix between forward and backward, but where weights are gathered as bf16 anyway. Under ddp in bf16
runs frozen matrices are there as bf16 alone (`model.precision`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from janus_train.config import ModelConfig, Part, PeftConfig
from janus_train.planning.flops import gradient_flow
from janus_train.planning.parameters import adapter_counts, parameter_counts, rounded_counts

FP32, BF16 = 4, 2


@dataclass(frozen=True)
class ShardingStrategy:
    """What of the trained parts' state is sharded over the GPUs, in the field's names."""

    name: str
    optimizer: bool = False
    gradients: bool = False
    weights: bool = False
    bf16_frozen: bool = False  # in bf16 runs frozen matrices are kept as bf16 alone
    masters: bool = False  # a second fp32 copy of the weights, sharded: DeepSpeed updates that one

    @property
    def gathers_narrow(self) -> bool:
        """Whole weights exist as bf16 only, a few layers at a time."""
        return self.weights


SHARDING_STRATEGIES: dict[str, ShardingStrategy] = {
    sharing.name: sharing
    for sharing in (
        ShardingStrategy("ddp", bf16_frozen=True),
        ShardingStrategy("zero1", optimizer=True, masters=True),
        ShardingStrategy("zero2", optimizer=True, gradients=True, masters=True),
        ShardingStrategy("zero3", optimizer=True, gradients=True, weights=True, masters=True),
        ShardingStrategy("fsdp2", optimizer=True, gradients=True, weights=True),
    )
}
"""ddp is ZeRO's stage 0. The names are those of launch/accelerate/."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters that matter to memory and to what GPUs send each other."""

    trained: float
    frozen: float  # without the VQ tokenizer
    whole: float  # the VQ tokenizer: frozen, in fp32, and whole on every GPU whatever is sharded
    matrices: float  # of the trained ones: autocast keeps a narrow copy of these until backward has passed
    unit: float  # the largest that is gathered at a time: a layer, the embedding or a head
    frozen_matrices: float = 0.0  # of the frozen ones
    passed_matrices: float = 0.0  # of these, those through which gradients flow: copied too where they are fp32


@dataclass(frozen=True)
class State:
    """Bytes on one GPU."""

    weights: float
    gradients: float
    masters: float
    moments: float
    copies: float  # autocast's narrow ones
    gathered: float  # weights of other GPUs, while they are needed

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.masters + self.moments + self.copies + self.gathered


def sizes_of(model: ModelConfig, trained: Collection[Part], peft: PeftConfig | None = None) -> Sizes:
    """Sizes of a run that trains whole parts, and by ``peft`` adapters beside others."""
    counts, rounded = parameter_counts(model), rounded_counts(model)
    adapters = adapter_counts(model, peft)
    flows, text = gradient_flow((*trained, *adapters)), model.text
    D = text.hidden_size
    embedding = text.vocab_size * D
    through: set[Part] = {"language_model", "image_head"} if flows["hidden"] else set()
    frozen = [part for part in counts if part not in trained and part != "generation_encoder"]
    head = D // text.num_attention_heads
    layer = D * head * 2 * (text.num_attention_heads + text.num_key_value_heads) + 3 * D * text.intermediate_size
    return Sizes(
        trained=sum(counts[part] for part in trained) + sum(adapters.values()),
        frozen=sum(counts[part] for part in frozen),
        whole=counts["generation_encoder"],
        matrices=sum(rounded[part] for part in trained) + sum(adapters.values()),
        unit=max(layer, embedding),
        frozen_matrices=sum(rounded[part] for part in frozen),
        passed_matrices=sum(rounded[part] for part in frozen if part in through | set(adapters)),
    )


def state(sizes: Sizes, sharing: ShardingStrategy, gpus: int, precision: str) -> State:
    """On each of ``gpus``; ``precision`` as in the configuration, fp32 or bf16."""
    narrow = precision == "bf16"
    bf16_frozen = sharing.bf16_frozen and narrow
    frozen = FP32 * sizes.frozen - ((FP32 - BF16) * sizes.frozen_matrices if bf16_frozen else 0.0)
    copied = sizes.matrices + (0.0 if bf16_frozen else sizes.passed_matrices)
    share = {True: 1 / gpus, False: 1.0}
    return State(
        weights=share[sharing.weights] * (FP32 * sizes.trained + frozen) + FP32 * sizes.whole,
        gradients=FP32 * share[sharing.gradients] * sizes.trained,
        masters=FP32 * share[True] * sizes.trained if sharing.masters else 0.0,
        moments=2 * FP32 * share[sharing.optimizer] * sizes.trained,
        copies=BF16 * copied if narrow and not sharing.gathers_narrow else 0.0,
        # the unit at work and the one fetched ahead
        gathered=2 * (BF16 if narrow else FP32) * sizes.unit if sharing.weights and gpus > 1 else 0.0,
    )
