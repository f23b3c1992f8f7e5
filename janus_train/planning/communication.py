"""How many bytes a GPU sends per step, and how long that takes.

Ring collectives: a reduce-scatter or an all-gather of n bytes over W GPUs sends (W - 1) / W * n from each, an all-reduce
twice that.
"""

from __future__ import annotations

from janus_train.planning.gpus import GPU, GPUS_PER_NODE
from janus_train.planning.state import BF16, FP32, ShardingStrategy, Sizes


def bytes_sent(sizes: Sizes, sharding: ShardingStrategy, num_gpus: int, micro_batches: int, precision: str) -> float:
    """Bytes that one GPU sends in one step of ``micro_batches``.

    - ddp: one all-reduce of fp32 gradients, on the last micro-batch.
    - zero1: the gradients once, and the updated weights once.
    - zero2: gradients in every micro-batch, because no GPU keeps them all; the updated weights once.
    - zero3, fsdp2: gradients as in zero2; all weights, frozen ones too, for every forward and again for every backward.

    In bf16 runs DeepSpeed reduces gradients as bf16, torch as fp32; weights are gathered for computing as bf16, the
    updated ones of zero1 and zero2 as fp32.
    """
    narrow_bytes = BF16 if precision == "bf16" else FP32
    gradient_bytes = FP32 if sharding.name in ("ddp", "fsdp2") else narrow_bytes
    if sharding.weights:
        num_bytes = micro_batches * (
            2 * narrow_bytes * (sizes.num_trained + sizes.num_frozen) + gradient_bytes * sizes.num_trained
        )
    elif sharding.gradients:
        num_bytes = (micro_batches * gradient_bytes + FP32) * sizes.num_trained
    elif sharding.optimizer:
        num_bytes = (gradient_bytes + FP32) * sizes.num_trained
    else:
        num_bytes = 2 * gradient_bytes * sizes.num_trained
    return num_bytes * (num_gpus - 1) / num_gpus


def seconds(num_bytes: float, gpu: GPU, num_gpus: int) -> float:
    """Seconds to send ``num_bytes``: inside a node over its links; across nodes the network is the bottleneck."""
    return num_bytes / (gpu.link if num_gpus <= GPUS_PER_NODE else gpu.network)
