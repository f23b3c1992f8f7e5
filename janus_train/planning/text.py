"""Prints a plan as tables on a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from janus_train.paths import IS_CHECKOUT, ROOT
from janus_train.planning.plan import POLICIES, Option, StagePlan
from janus_train.planning.run_plan import RunPlan
from janus_train.planning.state import SHARDING_STRATEGIES
from janus_train.planning.workload import GENERATION_TEXT, TEXT, UNDERSTANDING_LOSS, UNDERSTANDING_TEXT

WIDTH = 130
"""Columns of the output if it does not go to a terminal."""
GB = 1e9
_PLANNED = ("batch.micro_rows=", "memory.activation_checkpointing=")
"""Overrides that a plan replaces."""


def assumptions(plan: RunPlan) -> str:
    """The assumptions behind the figures, in a sentence."""
    stage = plan.stage
    codes = (
        "cached" if plan.cached_codes else "made by the VQ encoder in every step (--cached-codes: read from the cache)"
    )
    return (
        f"Assumed: {100 * stage.mfu:.0f} % of peak while computing ({stage.mfu_source}); full rows; an image and "
        f"{UNDERSTANDING_TEXT} tokens (understanding, {UNDERSTANDING_LOSS} with loss), {GENERATION_TEXT} (generation), "
        f"text of {TEXT}; codes {codes}; sending at {stage.gpu.network / GB:.0f} GB/s per GPU between nodes of 8, "
        f"{stage.gpu.link / GB:.0f} inside; 2 GB per GPU for CUDA and NCCL."
    )


def headline(plan: RunPlan) -> str:
    """The model, the stage, the batch and the GPUs of the plan, in a sentence."""
    stage = plan.stage
    batch, run = stage.config.batch, stage.config.run
    return (
        f"{stage.config.model.name}, stage {plan.stage_number}: {batch.rows_per_step} rows of {batch.row_tokens} tokens per step, "
        f"{run.steps} steps, on {stage.num_gpus} x {stage.gpu.name}"
    )


def launch_command(plan: RunPlan, option: Option, overrides: Sequence[str] | None = None) -> str:
    """The command that starts the requested stage with ``option``, from a checkout or with an installed package.

    ``overrides``: those of the run, by default the plan's own.
    """
    several = plan.stage.num_busy_gpus > 1
    path = Path("launch/accelerate") / f"{option.sharding.name}.yaml"
    words = ["accelerate", "launch"]
    words += ["--config_file", str(path if IS_CHECKOUT else ROOT / path)] if several else []
    words += ["train.py"] if IS_CHECKOUT else ["-m", "janus_train.train"]
    words += ["--config-dir", str(plan.config_dir)] if plan.config_dir else []
    words += [o for o in (plan.overrides if overrides is None else overrides) if not o.lstrip("+").startswith(_PLANNED)]
    words += [f"batch.micro_rows={option.micro_rows}", f"memory.activation_checkpointing={option.policy}"]
    return shlex.join(words)


def recommendation(plan: RunPlan) -> str:
    """The best way of running the requested stage, in a sentence."""
    stage, option = plan.stage, plan.stage.best_option
    if option is None:
        return "Nothing fits: see the warning."
    sharding = f"{option.sharding.name} over {stage.num_busy_gpus} GPUs" if stage.num_busy_gpus > 1 else "one GPU"
    return (
        f"Recommended: {sharding}, micro-batches of {option.micro_rows} of {stage.rows_per_gpu} rows, activation "
        f"checkpointing {option.policy}: {option.total / GB:.1f} of {option.gpu_memory / GB:.1f} GB, "
        f"{option.step_s:.2f} s per step."
    )


def ways_note(plan: RunPlan) -> str:
    """How to read the table of ways, in a sentence."""
    others = " Another sharding: its file in launch/accelerate/." if plan.stage.num_busy_gpus > 1 else ""
    return (
        "Smallest GPU by memory alone, with one row per micro-batch and as little activation checkpointing as fits there. "
        f"The commands, each on the smallest GPU:{others}"
    )


def way_commands(plan: RunPlan) -> list[tuple[str, str]]:
    """For each way to fine-tune that fits some GPU what it runs on, and its command."""
    commands = []
    for way in plan.ways:
        fit = way.best_fit
        if fit and fit.card and fit.option:
            where = f"{way.name}, on {plan.stage.num_busy_gpus} x {fit.card.name}"
            commands.append((where, launch_command(plan, fit.option, way.overrides)))
    return commands


def show(plan: RunPlan, console: Console) -> None:
    """Prints the whole plan."""

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=not console.is_terminal, markup=False)

    say(headline(plan))
    say(assumptions(plan))
    for table in (work_table(plan.stage), memory_table(plan.stage), sending_table(plan.stage), time_table(plan)):
        say("")
        console.print(table)
    if plan.ways:
        say("")
        console.print(ways_table(plan))
        say(ways_note(plan))
        for where, command in way_commands(plan):
            say(f"  {where}:\n    {command}")
    say("")
    if plan.paper:
        say(f"For comparison: {plan.paper}.")
    for warning in plan.warnings:
        say(f"warning: {warning}")
    say(recommendation(plan))
    if plan.stage.best_option:
        say(f"  {launch_command(plan, plan.stage.best_option)}")


def _table(title: str, first_column: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    table.add_column(first_column)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def work_table(stage: StagePlan) -> Table:
    """FLOPs per row, by part."""
    table = _table("Useful TFLOP per row", "part", "forward", "input gradients", "weight gradients", "all", "share")
    for piece, work in stage.work.items():
        values = (work.forward, work.input_gradients, work.weight_gradients, work.total)
        table.add_row(
            piece.replace("_", " "),
            *(f"{value / 1e12:.3f}" for value in values),
            f"{100 * work.total / stage.flops_per_row:.1f} %",
        )
    table.add_row("all", "", "", "", f"{stage.flops_per_row / 1e12:.2f}", "")
    return table


def memory_table(stage: StagePlan) -> Table:
    """Memory with one row per micro-batch under every sharding and policy, and how many rows fit."""
    sizes = stage.sizes
    title = (
        f"GB on a GPU with one row per micro-batch, of {stage.gpu.memory / GB:.1f}; "
        f"{sizes.num_trained / GB:.3g} B parameters train, {(sizes.num_frozen + sizes.num_vq) / GB:.2f} B are frozen"
    )
    names = ("weights", "gradients", "masters", "moments", "copies", "gathered", "activations", "logits", "all")
    table = _table(title, "sharding, checkpointing", *names, "fits", "most rows")
    for sharding in SHARDING_STRATEGIES:
        for policy in POLICIES:
            option = stage.option(sharding, policy, 1)
            table.add_row(
                f"{sharding}, {policy}",
                *(f"{value / GB:.1f}" for value in (*breakdown(option).values(), option.total)),
                "yes" if option.fits else "no",
                str(stage.largest_micro_rows(sharding, policy) or "none"),
            )
    return table


def ways_table(plan: RunPlan) -> Table:
    """Ways to fine-tune: under each sharding the least memory, and the smallest GPU with what it runs there."""
    title = (
        f"Ways to fine-tune on {plan.stage.num_busy_gpus} GPUs"
        if plan.stage.num_busy_gpus > 1
        else "Ways to fine-tune on one GPU"
    )
    columns = ("M parameters train", "sharding", "least GB on a GPU", "smallest GPU", "checkpointing there", "GB there")
    table = _table(title, "what trains", *columns)
    for way in plan.ways:
        for number, fit in enumerate(way.fits):
            first = (way.name, f"{way.num_trained / 1e6:,.1f}") if number == 0 else ("", "")
            option = fit.option
            there = (option.policy, f"{option.total / GB:.1f}") if option else ("", "")
            table.add_row(
                *first,
                "none" if len(way.fits) == 1 else fit.sharding,
                f"{fit.least_bytes / GB:.1f}",
                fit.card.name if fit.card else "none",
                *there,
            )
    return table


def breakdown(option: Option) -> dict[str, float]:
    """Bytes by use, without the reserve of 2 GB."""
    state, activations = option.state, option.activations
    return {
        "weights": state.weights,
        "gradients": state.gradients,
        "masters": state.masters,
        "moments": state.moments,
        "copies": state.copies,
        "gathered": state.gathered,
        "activations": activations.kept_bytes - activations.logits,
        "logits": activations.logits + activations.working_bytes,
    }


def sending_table(stage: StagePlan) -> Table:
    """What a GPU sends per step and the time it computes, with the smallest and the largest micro-batch."""
    table = _table(
        f"Sent per GPU and step, {stage.num_busy_gpus} GPUs, {stage.rows_per_gpu} rows each",
        "sharding",
        "rows at a time",
        "GB in a node",
        "GB across nodes",
        "s",
        "s computing",
        "sending / computing",
    )
    for sharding in SHARDING_STRATEGIES:
        for micro_rows in sorted({1, stage.rows_per_gpu}):
            option = stage.option(sharding, "none", micro_rows)
            table.add_row(
                sharding,
                str(micro_rows),
                f"{option.traffic.within_node / GB:.2f}",
                f"{option.traffic.across_nodes / GB:.2f}",
                f"{option.communication_s:.3f}",
                f"{option.compute_s:.3f}",
                f"{100 * option.communication_s / option.compute_s:.0f} %",
            )
    return table


def time_table(plan: RunPlan) -> Table:
    """Days and GPU-hours of each stage, run as recommended for it."""
    table = _table(
        "Time, each stage run as recommended for it",
        "stage",
        "run as",
        "MFU",
        "s per step",
        "steps",
        "days",
        "GPU-hours",
    )
    for number, stage in enumerate(plan.stages, start=1):
        option = stage.best_option
        description = (
            f"{option.sharding.name}, {option.micro_rows} of {stage.rows_per_gpu} rows, {option.policy}"
            if option
            else "does not fit"
        )
        table.add_row(
            str(number),
            description,
            f"{100 * stage.mfu:.0f} %",
            f"{stage.step_s:.2f}",
            str(stage.config.run.steps),
            f"{stage.days:.2f}",
            f"{stage.gpu_hours:,.0f}",
        )
    table.add_row("all", "", "", "", "", f"{plan.days:.2f}", f"{plan.gpu_hours:,.0f}")
    return table
