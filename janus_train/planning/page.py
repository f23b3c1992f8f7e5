"""A plan as a page to look at: one file, no scripts, nothing fetched; figures from the same tables as on the terminal."""

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
"""Colours of the parts of memory: classes of the style."""
WORK_TONES = {"forward": "t1", "input gradients": "t2", "weight gradients": "t4"}


@dataclass(frozen=True)
class Card:
    """A figure that stands out."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Box:
    """A part of a bar, in percent of the scale."""

    tone: str
    percent: float


@dataclass(frozen=True)
class Bar:
    """A quantity by its parts; ``limit`` is a mark on the scale, in percent."""

    name: str
    value: str
    boxes: list[Box]
    limit: float | None = None
    chosen: bool = False
    over: bool = False


@dataclass(frozen=True)
class Figures:
    """A table of texts."""

    title: str
    columns: list[str]
    rows: list[tuple[str, ...]]


def page(plan: RunPlan) -> str:
    """The whole document."""
    stage = plan.stage
    sections = {"time": "Days and GPU-hours", "memory": "Memory", "flops": "FLOPs", "sending": "Communication"}
    return render(
        "plan.html.j2",
        title=f"Plan of {stage.config.model.name}, stage {plan.asked}",
        summary=headline(plan),
        menu=[{"anchor": anchor, "name": name} for anchor, name in sections.items()],
        cards=_cards(plan),
        warnings=plan.warnings,
        recommendation=recommendation(plan),
        command=launch_command(plan, stage.chosen) if stage.chosen else "",
        assumptions=assumptions(plan),
        comparison=plan.paper,
        row_tokens=stage.config.batch.row_tokens,
        gpu_memory=f"{stage.card.memory / GB:.1f}",
        memory_keys=[(tone, name) for name, tone in TONES.items()],
        memory_bars=_memory_bars(stage),
        work_keys=[(tone, name) for name, tone in WORK_TONES.items()],
        work_bars=[_work_bars(stage)],
        time_table=_figures(time_table(plan)),
        memory_table=_figures(memory_table(stage)),
        work_table=_figures(work_table(stage)),
        sending_table=_figures(sending_table(stage)),
    )


def _cards(plan: RunPlan) -> list[Card]:
    stage = plan.stage
    memory = f"{stage.chosen.total / GB:.1f} of {stage.card.memory / GB:.1f} GB" if stage.chosen else "does not fit"
    return [
        Card(f"{stage.days:.2f} days", f"stage {plan.asked}, {stage.gpu_hours:,.0f} GPU-hours"),
        Card(f"{plan.days:.2f} days", f"all three stages, {plan.gpu_hours:,.0f} GPU-hours"),
        Card(f"{stage.step_s:.2f} s", f"per step of {stage.config.batch.rows_per_step} rows"),
        Card(memory, f"on each {stage.card.name}"),
        Card(f"{stage.flops_per_row / 1e12:.1f} TFLOP", f"useful, per row of {stage.config.batch.row_tokens} tokens"),
    ]


def _memory_bars(stage: StagePlan) -> list[list[Bar]]:
    """A bar per way of running, grouped by sharding: one row per micro-batch; and the chosen way as it was chosen."""
    chosen = stage.chosen
    shown = [option for option in stage.options if option.micro_rows == 1 or option is chosen]
    widest = max(min(max(option.total for option in shown), 4 * stage.card.memory), 1.05 * stage.card.memory)
    groups = []
    for sharing in SHARDING_STRATEGIES:
        options = {policy: stage.option(sharing, policy, 1) for policy in POLICIES}
        groups.append([_memory_bar(f"{sharing}, {policy}", o, widest, o is chosen) for policy, o in options.items()])
    if chosen and chosen.micro_rows > 1:
        name = f"{chosen.sharing.name}, {chosen.policy}, {chosen.micro_rows} rows"
        groups.append([_memory_bar(name, chosen, widest, True)])
    return groups


def _memory_bar(name: str, option: Option, widest: float, chosen: bool) -> Bar:
    boxes = _boxes({TONES[what]: size for what, size in breakdown(option).items()}, widest)
    limit = 100 * option.memory / widest
    return Bar(name, f"{option.total / GB:.1f} GB", boxes, limit, chosen, over=not option.fits)


def _work_bars(stage: StagePlan) -> list[Bar]:
    """Forward, input gradients and weight gradients of every part, on one scale."""
    widest = max(work.total for work in stage.work.values())
    bars = []
    for piece, work in stage.work.items():
        sizes = (work.forward, work.input_gradients, work.weight_gradients)
        boxes = _boxes(dict(zip(WORK_TONES.values(), sizes, strict=True)), widest)
        bars.append(Bar(piece.replace("_", " "), f"{100 * work.total / stage.flops_per_row:.1f} %", boxes))
    return bars


def _boxes(sizes: Mapping[str, float], widest: float) -> list[Box]:
    return [Box(tone, 100 * size / widest) for tone, size in sizes.items() if size > 0]


def _figures(table: Table) -> Figures:
    """A terminal's table as plain texts."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return Figures(
        str(table.title or ""), [str(column.header) for column in table.columns], list(zip(*columns, strict=True))
    )
