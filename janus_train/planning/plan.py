"""The plan of a stage: what every way of running it costs in memory and time, and which of them is best.

In: the stage's `Config`, the GPU, the number of GPUs, the expected share of peak (MFU). Out: `StagePlan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from janus_train.config import ActivationCheckpointing, Config
from janus_train.planning.activations import Activations, Widths, activations
from janus_train.planning.communication import Traffic, traffic
from janus_train.planning.flops import FlopsPart, PartFlops, flops_by_part
from janus_train.planning.gpus import GPU
from janus_train.planning.state import SHARDING_STRATEGIES, ShardingStrategy, Sizes, StateBytes, sizes_of, state_bytes
from janus_train.planning.trained import Trained
from janus_train.planning.workload import Workload, expected_row

POLICIES: tuple[ActivationCheckpointing, ...] = get_args(ActivationCheckpointing)
RESERVE = 2e9
"""Bytes for CUDA's context, NCCL's and cuBLAS's buffers, and fragmentation: an assumption."""
SELECTIVE_TIME = 0.05
"""The share that `selective` adds to a step's time: it repeats pointwise work, not products. An assumption."""
ASSUMED_MFU = 0.4
"""Used if no MFU was measured or requested: between the paper's 17 to 24 % and the best published 56 %."""
PAPER_DAYS: dict[str, tuple[str, int, float]] = {
    "janus_pro_1b": ("a100-40gb", 128, 9.0),
    "janus_pro_7b": ("a100-40gb", 256, 14.0),
}
"""GPU, number of GPUs and days of all three stages (Pro, 3.1)."""
SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True)
class Option:
    """One way of running a stage, as one GPU sees it. Bytes and seconds."""

    sharding: ShardingStrategy
    policy: ActivationCheckpointing
    micro_rows: int
    state: StateBytes
    activations: Activations
    compute_s: float  # per step, recomputation included
    traffic: Traffic
    communication_s: float
    gpu_memory: float

    @property
    def total(self) -> float:
        return self.state.total + self.activations.peak_bytes + RESERVE

    @property
    def fits(self) -> bool:
        return self.total <= self.gpu_memory

    @property
    def step_s(self) -> float:
        """The longer of computing and sending, which overlap."""
        return max(self.compute_s, self.communication_s)


@dataclass(frozen=True)
class StagePlan:
    """The plan of one stage: an option per sharding, policy and number of micro-rows; ``best_option`` is None if none fits."""

    config: Config
    gpu: GPU
    num_gpus: int
    num_busy_gpus: int  # GPUs that get rows: the largest number that divides the step's rows
    mfu: float
    mfu_source: str
    row: Workload
    work: dict[FlopsPart, PartFlops]
    sizes: Sizes
    options: list[Option]
    best_option: Option | None

    @property
    def flops_per_row(self) -> float:
        return sum(piece.total for piece in self.work.values())

    @property
    def flops(self) -> float:
        """FLOPs of the whole stage."""
        return self.flops_per_row * self.config.batch.rows_per_step * self.config.run.steps

    @property
    def rows_per_gpu(self) -> int:
        return self.config.batch.rows_per_step // self.num_busy_gpus

    @property
    def step_s(self) -> float:
        """Seconds per step of the best option; if none fits, of computing without recomputation."""
        return self.best_option.step_s if self.best_option else self._compute_s

    @property
    def _compute_s(self) -> float:
        return self.rows_per_gpu * self.flops_per_row / (self.gpu.peak(self.config.precision) * self.mfu)

    @property
    def days(self) -> float:
        return self.step_s * self.config.run.steps / SECONDS_PER_DAY

    @property
    def gpu_hours(self) -> float:
        return self.days * 24 * self.num_gpus

    def option(self, sharding: str, policy: ActivationCheckpointing, micro_rows: int) -> Option:
        key = (sharding, policy, micro_rows)
        return next(o for o in self.options if (o.sharding.name, o.policy, o.micro_rows) == key)

    def largest_micro_rows(self, sharding: str, policy: ActivationCheckpointing) -> int:
        """The largest micro-batch that fits, in rows; 0 if not even one row fits."""
        return max(
            (o.micro_rows for o in self.options if (o.sharding.name, o.policy) == (sharding, policy) and o.fits),
            default=0,
        )


def plan_stage(
    config: Config,
    gpu: GPU,
    num_gpus: int,
    mfu: float,
    mfu_source: str,
    cached_codes: bool,
    most_micro_rows: int | None = None,
) -> StagePlan:
    """Plans one stage. ``mfu``: useful FLOPs over peak while computing; ``mfu_source``: a phrase that says where it comes from.

    ``most_micro_rows``: the largest micro-batch that is planned; None: all of a GPU's rows.
    """
    num_busy_gpus = max(
        w for w in range(1, min(num_gpus, config.batch.rows_per_step) + 1) if config.batch.rows_per_step % w == 0
    )
    row = expected_row(config, cached_codes)
    model, parts, peft = config.model, config.train_parts, config.peft
    work, sizes = flops_by_part(model, parts, row, peft), sizes_of(model, parts, peft)
    rows = config.batch.rows_per_step // num_busy_gpus
    flops_per_row = sum(piece.total for piece in work.values())
    row_s = flops_per_row / (gpu.peak(config.precision) * mfu)
    layers = Trained(model, parts, peft).layers  # those below the lowest that trains are not computed again
    flows = sum(layer.flows for layer in layers) / len(layers)
    recomputed_share = (work["language_model"].forward + work["attention"].forward) / flops_per_row * flows
    slowdown: dict[ActivationCheckpointing, float] = {
        "none": 0.0,
        "selective": SELECTIVE_TIME * flows,
        "full": recomputed_share,
    }

    def option(sharding: ShardingStrategy, policy: ActivationCheckpointing, micro_rows: int) -> Option:
        sent = traffic(sizes, sharding, num_busy_gpus, rows // micro_rows, config.precision)
        return Option(
            sharding,
            policy,
            micro_rows,
            state_bytes(sizes, sharding, num_busy_gpus, config.precision, config.run.ema is not None),
            activations(
                model, parts, row * micro_rows, _widths(config), policy, peft=peft, text_loss=config.memory.text_loss
            ),
            rows * row_s * (1 + slowdown[policy]),
            sent,
            sent.seconds(gpu),
            gpu.memory,
        )

    options = [
        option(sharding, policy, micro_rows)
        for sharding in SHARDING_STRATEGIES.values()
        for policy in POLICIES
        for micro_rows in range(1, min(rows, most_micro_rows or rows) + 1)
        if rows % micro_rows == 0
    ]
    return StagePlan(
        config, gpu, num_gpus, num_busy_gpus, mfu, mfu_source, row, work, sizes, options, _best_option(options)
    )


def _best_option(options: list[Option]) -> Option | None:
    """The fastest option that fits; among those within 1 % the one that shards least, then the largest micro-batch."""
    fitting_options = [option for option in options if option.fits]
    if not fitting_options:
        return None
    shortest_step_s = min(option.step_s for option in fitting_options)
    order = list(SHARDING_STRATEGIES)
    return min(
        (option for option in fitting_options if option.step_s <= 1.01 * shortest_step_s),
        key=lambda o: (order.index(o.sharding.name), POLICIES.index(o.policy), -o.micro_rows),
    )


def implied_mfu(flops: float, gpu: GPU, num_gpus: int, days: float) -> float:
    """The share of the bf16 peak that this many useful FLOPs in this many days amount to."""
    return flops / (days * SECONDS_PER_DAY * num_gpus * gpu.bf16)


def _widths(config: Config) -> Widths:
    return Widths(4, 2) if config.precision == "bf16" else Widths(4, 4)
