"""What a GPU sends in a step, and how long that takes beside the computing.

Ring collectives: a reduce-scatter or an all-gather of n bytes over W GPUs sends (W - 1) / W * n from each, an all-reduce
twice that.
"""

from __future__ import annotations

from janus_train.planning.gpus import GPU, GPUS_PER_NODE
from janus_train.planning.state import BF16, FP32, ShardingStrategy, Sizes


def bytes_sent(sizes: Sizes, sharing: ShardingStrategy, gpus: int, micro_batches: int, precision: str) -> float:
    """By one GPU in one step of ``micro_batches``.

    - ddp: one all-reduce of fp32 gradients, on the last micro-batch.
    - zero1: the gradients once, and the updated weights once.
    - zero2: gradients leave in every micro-batch, because no GPU keeps them all; the updated weights once.
    - zero3, fsdp2: besides, all weights are gathered for every forward and again for every backward, the frozen ones too.

    In bf16 runs DeepSpeed reduces gradients as bf16, torch as fp32; weights are gathered for computing as bf16, the
    updated ones of zero1 and zero2 as fp32.
    """
    narrow = BF16 if precision == "bf16" else FP32
    gradient = FP32 if sharing.name in ("ddp", "fsdp2") else narrow
    if sharing.weights:
        sent = micro_batches * (2 * narrow * (sizes.trained + sizes.frozen) + gradient * sizes.trained)
    elif sharing.gradients:
        sent = (micro_batches * gradient + FP32) * sizes.trained
    elif sharing.optimizer:
        sent = (gradient + FP32) * sizes.trained
    else:
        sent = 2 * gradient * sizes.trained
    return sent * (gpus - 1) / gpus


def seconds(sent: float, card: GPU, gpus: int) -> float:
    """Inside a node over its own links; over several the network is the narrow place."""
    return sent / (card.link if gpus <= GPUS_PER_NODE else card.network)
