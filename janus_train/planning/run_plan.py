"""The plan of a whole run: the requested stage in full, the other two for their days and GPU-hours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from janus_train.compose import compose_config
from janus_train.config import Config
from janus_train.planning.finetune import STAGE, Way, ways_to_finetune
from janus_train.planning.gpus import GPU, GPUS
from janus_train.planning.measured import measured_mfu
from janus_train.planning.plan import ASSUMED_MFU, PAPER_DAYS, StagePlan, implied_mfu, plan_stage

SHARED_OVERRIDES = ("model=", "model.", "precision=")
"""Overrides that apply to all stages; in everything else the other stages keep the paper's values."""


@dataclass(frozen=True)
class RunPlan:
    """The plans of all three stages, in order; ``stage_number`` is the requested one.

    ``overrides`` and ``config_dir``: those of the requested run; ``ways``: ways to fine-tune, if it is stage 3.
    """

    stages: tuple[StagePlan, ...]
    stage_number: int
    cached_codes: bool
    overrides: tuple[str, ...]
    config_dir: Path | None
    ways: tuple[Way, ...]

    @property
    def stage(self) -> StagePlan:
        return self.stages[self.stage_number - 1]

    @property
    def days(self) -> float:
        return sum(stage.days for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        return sum(stage.gpu_hours for stage in self.stages)

    @property
    def warnings(self) -> list[str]:
        """One line for each stage that does not fit or leaves GPUs idle, with a remedy."""
        lines = []
        for number, stage in enumerate(self.stages, start=1):
            if stage.best_option is None:
                smallest_bytes = min(option.total for option in stage.options)
                lines.append(
                    f"stage {number} does not fit: the least is {smallest_bytes / 1e9:.1f} GB, a {stage.gpu.name} has "
                    f"{stage.gpu.memory / 1e9:.1f}; {_what_would_fit(stage)}"
                )
            if stage.num_busy_gpus < stage.num_gpus:
                lines.append(
                    f"stage {number} has {stage.config.batch.rows_per_step} rows per step: only {stage.num_busy_gpus} of the "
                    f"{stage.num_gpus} GPUs get some"
                )
        return lines

    @property
    def paper(self) -> str | None:
        """The MFU that the paper's training days imply, as a sentence; None for a model that is not the paper's."""
        name = self.stage.config.model.name
        if name not in PAPER_DAYS:
            return None
        gpu, num_gpus, days = PAPER_DAYS[name]
        mfu = implied_mfu(sum(stage.flops for stage in self.stages), GPUS[gpu], num_gpus, days)
        return f"the paper's {days:.0f} days on {num_gpus} x {gpu} are {100 * mfu:.0f} % of peak by this count"


def plan_run(
    overrides: list[str],
    gpu: GPU,
    num_gpus: int,
    mfu: float | None,
    cached_codes: bool,
    config_dir: Path | None = None,
) -> RunPlan:
    """Plans a run with the ``overrides`` of train.py, which may name files in ``config_dir``.

    ``mfu`` None: measured, or assumed. Raises `UserError` for invalid overrides.
    """
    config = compose_config(overrides, config_dir)
    shared_overrides = [override for override in overrides if override.startswith(SHARED_OVERRIDES)]
    configs = [
        config if stage == config.stage else compose_config([f"+stage={stage}", *shared_overrides], config_dir)
        for stage in (1, 2, 3)
    ]
    stages = tuple(
        plan_stage(config, gpu, num_gpus, *_expected_mfu(config, gpu, mfu), cached_codes) for config in configs
    )
    ways = ways_to_finetune(config, overrides, num_gpus, cached_codes, config_dir) if config.stage == STAGE else ()
    return RunPlan(stages, config.stage, cached_codes, tuple(overrides), config_dir, ways)


def _expected_mfu(config: Config, gpu: GPU, requested_mfu: float | None) -> tuple[float, str]:
    if requested_mfu is not None:
        return requested_mfu, "as requested"
    newest_mfu = measured_mfu(gpu, config.model.name, config.stage)
    if newest_mfu is not None:
        return newest_mfu, "measured, benchmarks/train.jsonl"
    return ASSUMED_MFU, "assumed, not measured"


def _what_would_fit(stage: StagePlan) -> str:
    """A phrase that names larger GPUs, and a larger number of the same, on which the stage would fit."""
    larger_gpus = [
        gpu.name
        for gpu in GPUS.values()
        if gpu.memory > stage.gpu.memory and plan_stage(stage.config, gpu, stage.num_gpus, 1.0, "", True).best_option
    ]
    rows = stage.config.batch.rows_per_step
    counts = [n for n in range(stage.num_gpus + 1, rows + 1) if rows % n == 0]
    num_enough = next((n for n in counts if plan_stage(stage.config, stage.gpu, n, 1.0, "", True).best_option), None)
    ways = [f"{stage.num_gpus} x {', '.join(larger_gpus)}"] if larger_gpus else []
    ways += [f"{num_enough} x {stage.gpu.name}"] if num_enough else []
    return f"it would on {' or '.join(ways)}" if ways else "nor would it on any known GPU: shorten batch.row_tokens"
