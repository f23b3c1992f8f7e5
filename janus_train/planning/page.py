"""A plan as an HTML page: one file without scripts or external resources, with the same tables as on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table

from janus_train.pages.render import render
from janus_train.planning.plan import POLICIES, Option, StagePlan
from janus_train.planning.run_plan import RunPlan
from janus_train.planning.state import SHARDING_STRATEGIES
from janus_train.planning.text import (
    GB,
    assumptions,
    breakdown,
    headline,
    launch_command,
    memory_table,
    recommendation,
    sending_table,
    time_table,
    way_commands,
    ways_note,
    ways_table,
    work_table,
)

TONES = {
    "weights": "t1",
    "gradients": "t2",
    "masters": "t3",
    "moments": "t4",
    "copies": "t5",
    "gathered": "t6",
    "activations": "t7",
    "logits": "t8",
}
"""The colours of the parts of memory, as classes of the style sheet."""
WORK_TONES = {"forward": "t1", "input gradients": "t2", "weight gradients": "t4"}


@dataclass(frozen=True)
class KeyFigure:
    """A number that is shown large at the top of the page."""

    value: str
    meaning: str


@dataclass(frozen=True)
class BarSegment:
    """A part of a bar, in percent of the scale."""

    tone: str
    percent: float


@dataclass(frozen=True)
class Bar:
    """A quantity split into its parts; ``limit`` is a mark on the scale, in percent."""

    name: str
    value: str
    segments: list[BarSegment]
    limit: float | None = None
    is_best: bool = False
    is_too_large: bool = False


@dataclass(frozen=True)
class FigureTable:
    """A table whose cells are texts."""

    title: str
    columns: list[str]
    rows: list[tuple[str, ...]]


def page(plan: RunPlan) -> str:
    """Renders the plan as an HTML document."""
    stage = plan.stage
    sections = {"time": "Days and GPU-hours", "memory": "Memory", "flops": "FLOPs", "sending": "Communication"}
    sections |= {"ways": "Ways to fine-tune"} if plan.ways else {}
    return render(
        "plan.html.j2",
        title=f"Plan of {stage.config.model.name}, stage {plan.stage_number}",
        summary=headline(plan),
        menu=[{"anchor": anchor, "name": name} for anchor, name in sections.items()],
        key_figures=_key_figures(plan),
        warnings=plan.warnings,
        recommendation=recommendation(plan),
        command=launch_command(plan, stage.best_option) if stage.best_option else "",
        assumptions=assumptions(plan),
        comparison=plan.paper,
        row_tokens=stage.config.batch.row_tokens,
        gpu_memory=f"{stage.gpu.memory / GB:.1f}",
        memory_keys=[(tone, name) for name, tone in TONES.items()],
        memory_bars=_memory_bars(stage),
        work_keys=[(tone, name) for name, tone in WORK_TONES.items()],
        work_bars=[_work_bars(stage)],
        time_table=_figure_table(time_table(plan)),
        memory_table=_figure_table(memory_table(stage)),
        work_table=_figure_table(work_table(stage)),
        sending_table=_figure_table(sending_table(stage)),
        ways_table=_figure_table(ways_table(plan)) if plan.ways else None,
        ways_note=ways_note(plan),
        way_commands=way_commands(plan),
    )


def _key_figures(plan: RunPlan) -> list[KeyFigure]:
    stage = plan.stage
    memory = (
        f"{stage.best_option.total / GB:.1f} of {stage.gpu.memory / GB:.1f} GB" if stage.best_option else "does not fit"
    )
    return [
        KeyFigure(f"{stage.days:.2f} days", f"stage {plan.stage_number}, {stage.gpu_hours:,.0f} GPU-hours"),
        KeyFigure(f"{plan.days:.2f} days", f"all three stages, {plan.gpu_hours:,.0f} GPU-hours"),
        KeyFigure(f"{stage.step_s:.2f} s", f"per step of {stage.config.batch.rows_per_step} rows"),
        KeyFigure(memory, f"on each {stage.gpu.name}"),
        KeyFigure(
            f"{stage.flops_per_row / 1e12:.1f} TFLOP", f"useful, per row of {stage.config.batch.row_tokens} tokens"
        ),
    ]


def _memory_bars(stage: StagePlan) -> list[list[Bar]]:
    """One bar per option with one row per micro-batch, grouped by sharding; and the recommended option if it has more rows."""
    best_option = stage.best_option
    visible_options = [option for option in stage.options if option.micro_rows == 1 or option is best_option]
    scale = max(min(max(option.total for option in visible_options), 4 * stage.gpu.memory), 1.05 * stage.gpu.memory)
    groups = []
    for sharding in SHARDING_STRATEGIES:
        options = {policy: stage.option(sharding, policy, 1) for policy in POLICIES}
        groups.append(
            [_memory_bar(f"{sharding}, {policy}", o, scale, o is best_option) for policy, o in options.items()]
        )
    if best_option and best_option.micro_rows > 1:
        name = f"{best_option.sharding.name}, {best_option.policy}, {best_option.micro_rows} rows"
        groups.append([_memory_bar(name, best_option, scale, True)])
    return groups


def _memory_bar(name: str, option: Option, scale: float, is_best: bool) -> Bar:
    segments = _segments({TONES[use]: size for use, size in breakdown(option).items()}, scale)
    limit = 100 * option.gpu_memory / scale
    return Bar(name, f"{option.total / GB:.1f} GB", segments, limit, is_best, is_too_large=not option.fits)


def _work_bars(stage: StagePlan) -> list[Bar]:
    """Forward, input gradients and weight gradients of every part, on one scale."""
    scale = max(work.total for work in stage.work.values())
    bars = []
    for piece, work in stage.work.items():
        sizes = (work.forward, work.input_gradients, work.weight_gradients)
        segments = _segments(dict(zip(WORK_TONES.values(), sizes, strict=True)), scale)
        bars.append(Bar(piece.replace("_", " "), f"{100 * work.total / stage.flops_per_row:.1f} %", segments))
    return bars


def _segments(sizes: Mapping[str, float], scale: float) -> list[BarSegment]:
    return [BarSegment(tone, 100 * size / scale) for tone, size in sizes.items() if size > 0]


def _figure_table(table: Table) -> FigureTable:
    """Converts a terminal table to plain texts."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return FigureTable(
        str(table.title or ""), [str(column.header) for column in table.columns], list(zip(*columns, strict=True))
    )
