"""Bytes of weights, gradients and optimiser state on one GPU, under each sharding strategy.

In: how many parameters train and how many are frozen (LoRA's adapters among the former), the number of GPUs, the
precision. Out: `StateBytes`. It follows what the trainer keeps: fp32 weights and moments for what trains. In bf16 runs
where every GPU has all weights, frozen matrices are kept as bf16 only (`model.precision`), and under zero1 and zero2
trained ones too, beside sharded fp32 masters. Under ddp autocast adds a bf16 copy of each trained matrix between forward
and backward. Where weights are sharded, they are gathered as bf16.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from janus_train.config import ModelConfig, PeftConfig
from janus_train.part_specs import covers_piece
from janus_train.planning.gpus import GPUS_PER_NODE
from janus_train.planning.parameters import adapter_counts, num_named, parameter_counts, rounded_counts

FP32, BF16 = 4, 2
BUCKET_ELEMENTS = 50_000_000
"""Gradients that zero1 and zero2 send at once: DeepSpeed's 5e8 takes 6 GB of buffers. A larger gradient is sent by
itself."""


@dataclass(frozen=True)
class ShardingStrategy:
    """Which parts of the training state are sharded over the GPUs."""

    name: str
    optimizer: bool = False
    gradients: bool = False
    weights: bool = False
    within_node: bool = False  # over a node's GPUs only, and replicated across nodes
    masters: bool = False  # a second fp32 copy of the weights, sharded: DeepSpeed updates that one
    bf16_weights: bool = False  # in bf16 runs trained matrices are kept as bf16 beside their masters

    @property
    def has_buckets(self) -> bool:
        """Whether gradients are copied into buffers to be sent."""
        return self.optimizer and not self.weights

    @property
    def gathers_narrow(self) -> bool:
        """Whether full weights exist as bf16 only, a few layers at a time."""
        return self.weights

    def num_shards(self, num_gpus: int) -> int:
        """The number of GPUs over which a copy of the state is sharded."""
        return min(num_gpus, GPUS_PER_NODE) if self.within_node else num_gpus


SHARDING_STRATEGIES: dict[str, ShardingStrategy] = {
    sharding.name: sharding
    for sharding in (
        ShardingStrategy("ddp"),
        ShardingStrategy("zero1", optimizer=True, masters=True, bf16_weights=True),
        ShardingStrategy("zero2", optimizer=True, gradients=True, masters=True, bf16_weights=True),
        ShardingStrategy("zero3", optimizer=True, gradients=True, weights=True, masters=True),
        ShardingStrategy("fsdp2", optimizer=True, gradients=True, weights=True),
        ShardingStrategy("hsdp", optimizer=True, gradients=True, weights=True, within_node=True),
    )
}
"""Named as the files in launch/accelerate/; ddp corresponds to ZeRO stage 0."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters that determine memory and communication."""

    num_trained: float
    num_frozen: float  # without the VQ tokenizer
    num_vq: float  # the VQ tokenizer: frozen, in fp32, and never sharded
    num_trained_matrices: float  # those that autocast rounds, adapters too
    largest_unit: float  # the most that is gathered at a time: a layer, the embedding or a head
    num_frozen_matrices: float = 0.0
    num_adapters: float = 0.0  # LoRA's, among those that train: fp32 under every strategy
    largest_gradient: float = 0.0


@dataclass(frozen=True)
class StateBytes:
    """Bytes of the training state on one GPU."""

    weights: float
    gradients: float
    masters: float
    moments: float  # and the average of the weights, if the run keeps one
    copies: float  # autocast's, in bf16
    gathered: float  # other GPUs' weights, while a layer needs them

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.masters + self.moments + self.copies + self.gathered


def sizes_of(model: ModelConfig, train_parts: Collection[str], peft: PeftConfig | None = None) -> Sizes:
    """The sizes of a run that trains ``train_parts`` in full and, with ``peft``, adapters beside others."""
    num_vq = parameter_counts(model)["generation_encoder"]
    num_sharded, num_sharded_matrices = (
        sum(parameter_counts(model).values()) - num_vq,
        sum(rounded_counts(model).values()),
    )
    num_sharded_matrices -= rounded_counts(model)["generation_encoder"]
    num_full, num_full_matrices = (num_named(model, train_parts, rounded=rounded) for rounded in (False, True))
    num_adapters = sum(adapter_counts(model, peft).values())
    text = model.text
    D = text.hidden_size
    embedding = text.vocab_size * D
    head_dim = D // text.num_attention_heads
    layer = D * head_dim * 2 * (text.num_attention_heads + text.num_key_value_heads) + 3 * D * text.intermediate_size
    has_embedding = any(covers_piece(train_parts, "language_model", piece) for piece in ("embed_tokens", "lm_head"))
    return Sizes(
        num_trained=num_full + num_adapters,
        num_frozen=num_sharded - num_full,
        num_vq=num_vq,
        num_trained_matrices=num_full_matrices + num_adapters,
        largest_unit=max(layer, embedding),
        num_frozen_matrices=num_sharded_matrices - num_full_matrices,
        num_adapters=num_adapters,
        largest_gradient=min(num_full + num_adapters, embedding if has_embedding else layer),
    )


def state_bytes(
    sizes: Sizes, sharding: ShardingStrategy, num_gpus: int, precision: str, has_average: bool = False
) -> StateBytes:
    """The state on each of ``num_gpus``.

    ``precision`` is that of the configuration, fp32 or bf16; ``has_average``: whether the run averages the weights
    (``run.ema``), in fp32 and sharded as the moments.
    """
    is_bf16 = precision == "bf16"
    narrow_bytes = BF16 if is_bf16 else FP32
    fraction = {True: 1 / sharding.num_shards(num_gpus), False: 1.0}
    num_frozen_bf16 = sizes.num_frozen_matrices if is_bf16 and not sharding.weights else 0.0
    num_trained_bf16 = sizes.num_trained_matrices - sizes.num_adapters if is_bf16 and sharding.bf16_weights else 0.0
    weights = FP32 * (sizes.num_trained + sizes.num_frozen) - (FP32 - BF16) * (num_frozen_bf16 + num_trained_bf16)
    gradients = FP32 * fraction[sharding.gradients] * sizes.num_trained
    if sharding.has_buckets:  # two for each type of gradients, of which zero1 adds up all in fp32
        bucket_types = [FP32, BF16 if sharding.gradients else FP32] if is_bf16 else [FP32]
        gradients += 2 * min(BUCKET_ELEMENTS, sizes.num_trained) * sum(bucket_types)
        gradients += FP32 * sizes.largest_gradient if sharding.gradients else 0.0
    return StateBytes(
        weights=fraction[sharding.weights] * weights + FP32 * sizes.num_vq,
        gradients=gradients,
        masters=FP32 * fraction[True] * sizes.num_trained if sharding.masters else 0.0,
        moments=(3 if has_average else 2) * FP32 * fraction[sharding.optimizer] * sizes.num_trained,
        copies=BF16 * (sizes.num_trained_matrices - num_trained_bf16)
        if is_bf16 and not sharding.gathers_narrow
        else 0.0,
        # the unit at work and the one fetched ahead
        gathered=2 * narrow_bytes * sizes.largest_unit if sharding.weights and num_gpus > 1 else 0.0,
    )
