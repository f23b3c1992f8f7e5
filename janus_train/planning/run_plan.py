"""The plan of a whole run: the asked stage in full, the other two for their share of days and GPU-hours."""

from __future__ import annotations

from dataclasses import dataclass

from janus_train.compose import compose_config
from janus_train.config import Config
from janus_train.planning.gpus import GPU, GPUS
from janus_train.planning.measured import measured_mfu
from janus_train.planning.plan import ASSUMED_MFU, PAPER_DAYS, StagePlan, implied_mfu, plan_stage

SHARED_OVERRIDES = ("model=", "model.", "precision=")
"""Options of the asked stage that hold for the other stages too; they keep the paper's values else."""


@dataclass(frozen=True)
class RunPlan:
    """``stages``: all three, in order."""

    stages: tuple[StagePlan, ...]
    asked: int
    cached_codes: bool

    @property
    def stage(self) -> StagePlan:
        return self.stages[self.asked - 1]

    @property
    def days(self) -> float:
        return sum(stage.days for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        return sum(stage.gpu_hours for stage in self.stages)

    @property
    def warnings(self) -> list[str]:
        """What does not fit or stands idle, and what would help."""
        lines = []
        for number, stage in enumerate(self.stages, start=1):
            if stage.chosen is None:
                least = min(option.total for option in stage.options)
                lines.append(
                    f"stage {number} does not fit: the least is {least / 1e9:.1f} GB, a {stage.card.name} has "
                    f"{stage.card.memory / 1e9:.1f}; {_what_would_fit(stage)}"
                )
            if stage.busy_gpus < stage.gpus:
                lines.append(
                    f"stage {number} has {stage.config.batch.rows_per_step} rows a step: only {stage.busy_gpus} of the "
                    f"{stage.gpus} GPUs get some"
                )
        return lines

    @property
    def paper(self) -> str | None:
        """What the paper's own days mean by this count; None for a model that is not the paper's."""
        name = self.stage.config.model.name
        if name not in PAPER_DAYS:
            return None
        card, gpus, days = PAPER_DAYS[name]
        share = implied_mfu(sum(stage.flops for stage in self.stages), GPUS[card], gpus, days)
        return f"the paper's {days:.0f} days on {gpus} x {card} are {100 * share:.0f} % of peak by this count"


def plan_run(overrides: list[str], card: GPU, gpus: int, mfu: float | None, cached_codes: bool) -> RunPlan:
    """``overrides``: what train.py takes. ``mfu`` None: as measured, or assumed. Raises `UserError` for what is wrong."""
    config = compose_config(overrides)
    shared = [override for override in overrides if override.startswith(SHARED_OVERRIDES)]
    configs = [config if stage == config.stage else compose_config([f"+stage={stage}", *shared]) for stage in (1, 2, 3)]
    stages = tuple(plan_stage(c, card, gpus, *_expected_mfu(c, card, mfu), cached_codes) for c in configs)
    return RunPlan(stages, config.stage, cached_codes)


def _expected_mfu(config: Config, card: GPU, asked: float | None) -> tuple[float, str]:
    if asked is not None:
        return asked, "as asked"
    measured = measured_mfu(card, config.model.name, config.stage)
    if measured is not None:
        return measured, "measured, benchmarks/train.jsonl"
    return ASSUMED_MFU, "assumed, not measured"


def _what_would_fit(stage: StagePlan) -> str:
    """Larger cards, and more of the same."""
    larger = [
        card.name
        for card in GPUS.values()
        if card.memory > stage.card.memory and plan_stage(stage.config, card, stage.gpus, 1.0, "", True).chosen
    ]
    rows = stage.config.batch.rows_per_step
    counts = [n for n in range(stage.gpus + 1, rows + 1) if rows % n == 0]
    more = next((n for n in counts if plan_stage(stage.config, stage.card, n, 1.0, "", True).chosen), None)
    ways = [f"{stage.gpus} x {', '.join(larger)}"] if larger else []
    ways += [f"{more} x {stage.card.name}"] if more else []
    return f"it would on {' or '.join(ways)}" if ways else "nor on any card known here: shorten batch.row_tokens"
