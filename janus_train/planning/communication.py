"""How many bytes a GPU sends per step, and how long that takes.

Ring collectives: a reduce-scatter or an all-gather of n bytes over W GPUs sends (W - 1) / W * n from each, an all-reduce
twice that. Across nodes there is a ring for each GPU of a node, all over the network at once. Only bytes are counted:
the latency of a collective, which grows with the number of GPUs, is not.
"""

from __future__ import annotations

from dataclasses import dataclass

from janus_train.planning.gpus import GPU, GPUS_PER_NODE
from janus_train.planning.state import BF16, FP32, ShardingStrategy, Sizes


@dataclass(frozen=True)
class Traffic:
    """Bytes that one GPU sends in a step: in collectives of a node's GPUs, and in those that span nodes."""

    within_node: float
    across_nodes: float

    @property
    def total(self) -> float:
        return self.within_node + self.across_nodes

    def seconds(self, gpu: GPU) -> float:
        """Inside a node over its links. Across nodes over all of a node's networks, or over the links if these are slower."""
        return self.within_node / gpu.link + self.across_nodes / min(gpu.link, GPUS_PER_NODE * gpu.network)


def traffic(sizes: Sizes, sharding: ShardingStrategy, num_gpus: int, micro_batches: int, precision: str) -> Traffic:
    """What one GPU sends in one step of ``micro_batches``.

    - ddp: one all-reduce of fp32 gradients, on the last micro-batch.
    - zero1: an all-reduce of the gradients, from which each GPU takes its shard, and the updated weights once.
    - zero2: the same, but gradients in every micro-batch, because no GPU keeps them all.
    - zero3, fsdp2: a reduce-scatter of gradients in every micro-batch; all weights, frozen ones too, for every forward and
      again for every backward.
    - hsdp: the same inside a node; across nodes one all-reduce of each GPU's shard of the fp32 gradients.

    In bf16 runs DeepSpeed reduces gradients as bf16, torch as fp32; weights travel as bf16.
    """
    narrow_bytes = BF16 if precision == "bf16" else FP32
    gradient_bytes = FP32 if sharding.name in ("ddp", "fsdp2", "hsdp") else narrow_bytes
    num_shards = sharding.num_shards(num_gpus)
    num_replicas = num_gpus / num_shards
    replica_bytes = 0.0
    if sharding.weights:
        num_bytes = micro_batches * (
            2 * narrow_bytes * (sizes.num_trained + sizes.num_frozen) + gradient_bytes * sizes.num_trained
        )
        replica_bytes = 2 * FP32 * sizes.num_trained / num_shards * (num_replicas - 1) / num_replicas
    elif sharding.optimizer:
        num_all_reduces = micro_batches if sharding.gradients else 1
        num_bytes = (2 * num_all_reduces * gradient_bytes + narrow_bytes) * sizes.num_trained
    else:
        num_bytes = 2 * gradient_bytes * sizes.num_trained
    shard_group_bytes = num_bytes * (num_shards - 1) / num_shards
    if num_shards <= GPUS_PER_NODE:
        return Traffic(shard_group_bytes, replica_bytes)
    return Traffic(0.0, shard_group_bytes)
