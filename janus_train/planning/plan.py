"""A plan of a stage: what every way of running it costs in memory and time, and which of them to take.

In: the stage's `Config`, the card, the number of GPUs, the share of peak that is expected (MFU). Out: `StagePlan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from janus_train.config import ActivationCheckpointing, Config
from janus_train.planning.activations import Activations, Widths, activations
from janus_train.planning.communication import bytes_sent, seconds
from janus_train.planning.flops import FlopsPart, PartFlops, flops_by_part, gradient_flow
from janus_train.planning.gpus import GPU
from janus_train.planning.state import SHARDING_STRATEGIES, ShardingStrategy, Sizes, State, sizes_of, state
from janus_train.planning.workload import Workload, expected_row

POLICIES: tuple[ActivationCheckpointing, ...] = get_args(ActivationCheckpointing)
RESERVE = 2e9
"""Bytes of a card for CUDA's context, NCCL's and cuBLAS's buffers, and holes between blocks: an assumption."""
SELECTIVE_TIME = 0.05
"""What `selective` adds to a step's time: it repeats no product, but the pointwise work between them. An assumption."""
ASSUMED_MFU = 0.4
"""Where nothing was measured and nothing asked for: between the paper's 17 to 24 % and the best published 56 %."""
PAPER_DAYS: dict[str, tuple[str, int, float]] = {
    "janus_pro_1b": ("a100-40gb", 128, 9.0),
    "janus_pro_7b": ("a100-40gb", 256, 14.0),
}
"""Card, GPUs and days of all three stages (Pro, 3.1)."""
SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True)
class Option:
    """One way of running a stage, as one GPU sees it. Bytes and seconds."""

    sharing: ShardingStrategy
    policy: ActivationCheckpointing
    micro_rows: int
    state: State
    activations: Activations
    compute_s: float  # of a step, recomputation included
    communication_s: float
    memory: float  # of the card

    @property
    def total(self) -> float:
        return self.state.total + self.activations.peak + RESERVE

    @property
    def fits(self) -> bool:
        return self.total <= self.memory

    @property
    def step_s(self) -> float:
        """Computing and sending side by side: the longer of the two."""
        return max(self.compute_s, self.communication_s)


@dataclass(frozen=True)
class StagePlan:
    """All of a stage. ``options`` hold every sharing, policy and number of micro-rows; ``chosen`` is None if none fits."""

    config: Config
    card: GPU
    gpus: int
    busy_gpus: int  # those that get rows: as many as divide the step's rows
    mfu: float
    mfu_from: str
    row: Workload
    work: dict[FlopsPart, PartFlops]
    sizes: Sizes
    options: list[Option]
    chosen: Option | None

    @property
    def flops_per_row(self) -> float:
        return sum(piece.total for piece in self.work.values())

    @property
    def flops(self) -> float:
        """FLOPs of the whole stage."""
        return self.flops_per_row * self.config.batch.rows_per_step * self.config.run.steps

    @property
    def rows_per_gpu(self) -> int:
        return self.config.batch.rows_per_step // self.busy_gpus

    @property
    def step_s(self) -> float:
        """Seconds per step of the chosen option; if none fits, computing alone, without recomputation."""
        return self.chosen.step_s if self.chosen else self._compute_s

    @property
    def _compute_s(self) -> float:
        return self.rows_per_gpu * self.flops_per_row / (self.card.peak(self.config.precision) * self.mfu)

    @property
    def days(self) -> float:
        return self.step_s * self.config.run.steps / SECONDS_PER_DAY

    @property
    def gpu_hours(self) -> float:
        return self.days * 24 * self.gpus

    def option(self, sharing: str, policy: ActivationCheckpointing, micro_rows: int) -> Option:
        wanted = (sharing, policy, micro_rows)
        return next(o for o in self.options if (o.sharing.name, o.policy, o.micro_rows) == wanted)

    def largest_micro_rows(self, sharing: str, policy: ActivationCheckpointing) -> int:
        """0: not even one row fits."""
        return max(
            (o.micro_rows for o in self.options if (o.sharing.name, o.policy) == (sharing, policy) and o.fits),
            default=0,
        )


def plan_stage(config: Config, card: GPU, gpus: int, mfu: float, mfu_from: str, cached_codes: bool) -> StagePlan:
    """``mfu``: useful FLOPs over peak while computing; ``mfu_from``: the words that say where it comes from."""
    busy = max(w for w in range(1, min(gpus, config.batch.rows_per_step) + 1) if config.batch.rows_per_step % w == 0)
    row = expected_row(config, cached_codes)
    model, parts, peft = config.model, config.train_parts, config.peft
    pieces, sizes = flops_by_part(model, parts, row, peft), sizes_of(model, parts, peft)
    rows = config.batch.rows_per_step // busy
    useful = sum(piece.total for piece in pieces.values())
    per_row_s = useful / (card.peak(config.precision) * mfu)
    flows = gradient_flow(config.touched_parts)["language_model"]
    again = (pieces["language_model"].forward + pieces["attention"].forward) / useful * flows
    slower: dict[ActivationCheckpointing, float] = {"none": 0.0, "selective": SELECTIVE_TIME * flows, "full": again}
    options = [
        Option(
            sharing,
            policy,
            micro_rows,
            state(sizes, sharing, busy, config.precision),
            activations(
                model, parts, row * micro_rows, _widths(config), policy, peft=peft, text_loss=config.memory.text_loss
            ),
            rows * per_row_s * (1 + slower[policy]),
            seconds(bytes_sent(sizes, sharing, busy, rows // micro_rows, config.precision), card, busy),
            card.memory,
        )
        for sharing in SHARDING_STRATEGIES.values()
        for policy in POLICIES
        for micro_rows in range(1, rows + 1)
        if rows % micro_rows == 0
    ]
    return StagePlan(config, card, gpus, busy, mfu, mfu_from, row, pieces, sizes, options, _best(options))


def _best(options: list[Option]) -> Option | None:
    """The quickest option that fits; among equals (1 %) the one that shards least, then the larger micro-batch."""
    fitting = [option for option in options if option.fits]
    if not fitting:
        return None
    quickest = min(option.step_s for option in fitting)
    order = list(SHARDING_STRATEGIES)
    return min(
        (option for option in fitting if option.step_s <= 1.01 * quickest),
        key=lambda o: (order.index(o.sharing.name), POLICIES.index(o.policy), -o.micro_rows),
    )


def implied_mfu(flops: float, card: GPU, gpus: int, days: float) -> float:
    """The share of the bf16 peak that so many useful FLOPs in so many days are."""
    return flops / (days * SECONDS_PER_DAY * gpus * card.bf16)


def _widths(config: Config) -> Widths:
    return Widths(4, 2) if config.precision == "bf16" else Widths(4, 4)
