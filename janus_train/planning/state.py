"""Bytes of weights, gradients and optimiser state on one GPU, under each sharding strategy.

In: how many parameters train and how many are frozen (LoRA's adapters among the former), the number of GPUs, the
precision. Out: `StateBytes`. It follows what the trainer keeps: fp32 weights and moments for what trains; in bf16 runs
autocast adds a bf16 copy of each matrix between forward and backward, unless weights are gathered as bf16 anyway. Under
ddp in bf16 runs frozen matrices are kept as bf16 only (`model.precision`).
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
    """Which parts of the training state are sharded over the GPUs."""

    name: str
    optimizer: bool = False
    gradients: bool = False
    weights: bool = False
    bf16_frozen: bool = False  # in bf16 runs frozen matrices are kept as bf16 only
    masters: bool = False  # a second fp32 copy of the weights, sharded: DeepSpeed updates that one

    @property
    def gathers_narrow(self) -> bool:
        """Whether full weights exist as bf16 only, a few layers at a time."""
        return self.weights


SHARDING_STRATEGIES: dict[str, ShardingStrategy] = {
    sharding.name: sharding
    for sharding in (
        ShardingStrategy("ddp", bf16_frozen=True),
        ShardingStrategy("zero1", optimizer=True, masters=True),
        ShardingStrategy("zero2", optimizer=True, gradients=True, masters=True),
        ShardingStrategy("zero3", optimizer=True, gradients=True, weights=True, masters=True),
        ShardingStrategy("fsdp2", optimizer=True, gradients=True, weights=True),
    )
}
"""Named as the files in launch/accelerate/; ddp corresponds to ZeRO stage 0."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters that determine memory and communication."""

    num_trained: float
    num_frozen: float  # without the VQ tokenizer
    num_vq: float  # the VQ tokenizer: frozen, in fp32, and never sharded
    num_trained_matrices: float  # autocast keeps a bf16 copy of these until the end of backward
    largest_unit: float  # the most that is gathered at a time: a layer, the embedding or a head
    num_frozen_matrices: float = 0.0
    num_passed_matrices: float = 0.0  # frozen matrices through which gradients flow: copied too if they are fp32


@dataclass(frozen=True)
class StateBytes:
    """Bytes of the training state on one GPU."""

    weights: float
    gradients: float
    masters: float
    moments: float
    copies: float  # autocast's, in bf16
    gathered: float  # other GPUs' weights, while a layer needs them

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.masters + self.moments + self.copies + self.gathered


def sizes_of(model: ModelConfig, trained_parts: Collection[Part], peft: PeftConfig | None = None) -> Sizes:
    """The sizes of a run that trains ``trained_parts`` in full and, with ``peft``, adapters beside others."""
    counts, rounded_parameters = parameter_counts(model), rounded_counts(model)
    adapters = adapter_counts(model, peft)
    flows, text_config = gradient_flow((*trained_parts, *adapters)), model.text
    D = text_config.hidden_size
    embedding = text_config.vocab_size * D
    parts_with_flow: set[Part] = {"language_model", "image_head"} if flows["hidden"] else set()
    frozen_parts = [part for part in counts if part not in trained_parts and part != "generation_encoder"]
    head_dim = D // text_config.num_attention_heads
    layer = (
        D * head_dim * 2 * (text_config.num_attention_heads + text_config.num_key_value_heads)
        + 3 * D * text_config.intermediate_size
    )
    return Sizes(
        num_trained=sum(counts[part] for part in trained_parts) + sum(adapters.values()),
        num_frozen=sum(counts[part] for part in frozen_parts),
        num_vq=counts["generation_encoder"],
        num_trained_matrices=sum(rounded_parameters[part] for part in trained_parts) + sum(adapters.values()),
        largest_unit=max(layer, embedding),
        num_frozen_matrices=sum(rounded_parameters[part] for part in frozen_parts),
        num_passed_matrices=sum(
            rounded_parameters[part] for part in frozen_parts if part in parts_with_flow | set(adapters)
        ),
    )


def state_bytes(sizes: Sizes, sharding: ShardingStrategy, num_gpus: int, precision: str) -> StateBytes:
    """The state on each of ``num_gpus``; ``precision`` is that of the configuration, fp32 or bf16."""
    is_bf16 = precision == "bf16"
    bf16_frozen = sharding.bf16_frozen and is_bf16
    frozen = FP32 * sizes.num_frozen - ((FP32 - BF16) * sizes.num_frozen_matrices if bf16_frozen else 0.0)
    num_copied = sizes.num_trained_matrices + (0.0 if bf16_frozen else sizes.num_passed_matrices)
    fraction = {True: 1 / num_gpus, False: 1.0}
    return StateBytes(
        weights=fraction[sharding.weights] * (FP32 * sizes.num_trained + frozen) + FP32 * sizes.num_vq,
        gradients=FP32 * fraction[sharding.gradients] * sizes.num_trained,
        masters=FP32 * fraction[True] * sizes.num_trained if sharding.masters else 0.0,
        moments=2 * FP32 * fraction[sharding.optimizer] * sizes.num_trained,
        copies=BF16 * num_copied if is_bf16 and not sharding.gathers_narrow else 0.0,
        # the unit at work and the one fetched ahead
        gathered=2 * (BF16 if is_bf16 else FP32) * sizes.largest_unit if sharding.weights and num_gpus > 1 else 0.0,
    )
