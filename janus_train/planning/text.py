"""A plan as tables on a terminal."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Table

from janus_train.paths import IS_CHECKOUT, ROOT
from janus_train.planning.plan import POLICIES, Option, StagePlan
from janus_train.planning.run_plan import RunPlan
from janus_train.planning.state import SHARDING_STRATEGIES
from janus_train.planning.workload import GENERATION_TEXT, TEXT, UNDERSTANDING_LOSS, UNDERSTANDING_TEXT

WIDTH = 130
"""Where there is no terminal to ask."""
GB = 1e9


def assumptions(plan: RunPlan) -> str:
    """What the figures rest on, in a sentence or two."""
    stage = plan.stage
    codes = (
        "cached" if plan.cached_codes else "made by the VQ encoder in every step (--cached-codes: read from the cache)"
    )
    return (
        f"Assumed: {100 * stage.mfu:.0f} % of peak while computing ({stage.mfu_from}); full rows; an image and "
        f"{UNDERSTANDING_TEXT} tokens (understanding, {UNDERSTANDING_LOSS} with loss), {GENERATION_TEXT} (generation), "
        f"text of {TEXT}; codes {codes}; sending at {stage.card.network / GB:.0f} GB/s between nodes of 8, "
        f"{stage.card.link / GB:.0f} inside; 2 GB of a card for CUDA and NCCL."
    )


def headline(plan: RunPlan) -> str:
    """Whose plan this is."""
    stage = plan.stage
    batch, run = stage.config.batch, stage.config.run
    return (
        f"{stage.config.model.name}, stage {plan.asked}: {batch.rows_per_step} rows of {batch.row_tokens} tokens a step, "
        f"{run.steps} steps, on {stage.gpus} x {stage.card.name}"
    )


def launch_command(plan: RunPlan, option: Option) -> str:
    """How to start the asked stage as recommended, in the checkout or, of an installed package, anywhere."""
    stage = plan.stage
    several = stage.busy_gpus > 1
    path = Path("launch/accelerate") / f"{option.sharing.name}.yaml"
    file = f"--config_file {path if IS_CHECKOUT else shlex.quote(str(ROOT / path))} " if several else ""
    trainer = "train.py" if IS_CHECKOUT else "-m janus_train.train"
    peft = stage.config.peft
    lora = f"+peft=lora peft.rank={peft.rank} " if peft else ""
    return (
        f"accelerate launch {file}{trainer} +stage={plan.asked} model={stage.config.model.name} {lora}"
        f"batch.micro_rows={option.micro_rows} memory.activation_checkpointing={option.policy}"
    )


def recommendation(plan: RunPlan) -> str:
    """The chosen way of running the asked stage, in a sentence."""
    stage, option = plan.stage, plan.stage.chosen
    if option is None:
        return "Nothing fits: see the warning."
    sharing = f"{option.sharing.name} over {stage.busy_gpus} GPUs" if stage.busy_gpus > 1 else "one GPU"
    return (
        f"Recommended: {sharing}, micro-batches of {option.micro_rows} of {stage.rows_per_gpu} rows, activation "
        f"checkpointing {option.policy}: {option.total / GB:.1f} of {option.memory / GB:.1f} GB, "
        f"{option.step_s:.2f} s a step."
    )


def show(plan: RunPlan, console: Console) -> None:
    """Print all of it."""

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=not console.is_terminal, markup=False)

    say(headline(plan))
    say(assumptions(plan))
    for table in (work_table(plan.stage), memory_table(plan.stage), sending_table(plan.stage), time_table(plan)):
        say("")
        console.print(table)
    say("")
    if plan.paper:
        say(f"For comparison: {plan.paper}.")
    for warning in plan.warnings:
        say(f"warning: {warning}")
    say(recommendation(plan))
    if plan.stage.chosen:
        say(f"  {launch_command(plan, plan.stage.chosen)}")


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def work_table(stage: StagePlan) -> Table:
    """FLOPs a row by part."""
    table = _table("Useful TFLOP a row", "part", "forward", "input gradients", "weight gradients", "all", "share")
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
    """One row a micro-batch, under every sharing and policy; and how many rows fit."""
    sizes = stage.sizes
    title = (
        f"GB on a GPU with one row a micro-batch, of {stage.card.memory / GB:.1f}; "
        f"{sizes.trained / GB:.3g} B parameters train, {(sizes.frozen + sizes.whole) / GB:.2f} B are frozen"
    )
    names = ("weights", "gradients", "masters", "moments", "copies", "gathered", "activations", "logits", "all")
    table = _table(title, "shared out, checkpointing", *names, "fits", "most rows")
    for sharing in SHARDING_STRATEGIES:
        for policy in POLICIES:
            option = stage.option(sharing, policy, 1)
            table.add_row(
                f"{sharing}, {policy}",
                *(f"{value / GB:.1f}" for value in (*breakdown(option).values(), option.total)),
                "yes" if option.fits else "no",
                str(stage.largest_micro_rows(sharing, policy) or "none"),
            )
    return table


def breakdown(option: Option) -> dict[str, float]:
    """Bytes by what they are for; the reserve of 2 GB is not among them."""
    state, kept = option.state, option.activations
    return {
        "weights": state.weights,
        "gradients": state.gradients,
        "masters": state.masters,
        "moments": state.moments,
        "copies": state.copies,
        "gathered": state.gathered,
        "activations": kept.kept - kept.logits,
        "logits": kept.logits + kept.working,
    }


def sending_table(stage: StagePlan) -> Table:
    """What a GPU sends in a step, beside the time it computes; with the smallest and the largest micro-batch."""
    table = _table(
        f"Sent by a GPU in a step, {stage.busy_gpus} GPUs, {stage.rows_per_gpu} rows each",
        "shared out",
        "rows at a time",
        "GB",
        "s",
        "s computing",
        "sending / computing",
    )
    for sharing in SHARDING_STRATEGIES:
        for micro_rows in sorted({1, stage.rows_per_gpu}):
            option = stage.option(sharing, "none", micro_rows)
            sent = option.communication_s * (stage.card.link if stage.busy_gpus <= 8 else stage.card.network)
            table.add_row(
                sharing,
                str(micro_rows),
                f"{sent / GB:.2f}",
                f"{option.communication_s:.3f}",
                f"{option.compute_s:.3f}",
                f"{100 * option.communication_s / option.compute_s:.0f} %",
            )
    return table


def time_table(plan: RunPlan) -> Table:
    """Days and GPU-hours, stage by stage, each as recommended for it."""
    table = _table(
        "Time, each stage run as recommended for it", "stage", "run as", "MFU", "s a step", "steps", "days", "GPU-hours"
    )
    for number, stage in enumerate(plan.stages, start=1):
        option = stage.chosen
        how = (
            f"{option.sharing.name}, {option.micro_rows} of {stage.rows_per_gpu} rows, {option.policy}"
            if option
            else "does not fit"
        )
        table.add_row(
            str(number),
            how,
            f"{100 * stage.mfu:.0f} %",
            f"{stage.step_s:.2f}",
            str(stage.config.run.steps),
            f"{stage.days:.2f}",
            f"{stage.gpu_hours:,.0f}",
        )
    table.add_row("all", "", "", "", "", f"{plan.days:.2f}", f"{plan.gpu_hours:,.0f}")
    return table
