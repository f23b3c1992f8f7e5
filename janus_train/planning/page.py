"""A plan as a page to look at: one file, no scripts, nothing fetched; figures from the same tables as on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from rich.table import Table

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
from janus_train.report.style import STYLE as REPORT_STYLE

TONES = {
    "weights": 1,
    "gradients": 2,
    "masters": 3,
    "moments": 4,
    "copies": 5,
    "gathered": 6,
    "activations": 7,
    "logits": 8,
}
"""Colours of the parts of memory: classes of the style."""

STYLE = """
:root { --t1: #2b6cd4; --t2: #0c8f72; --t3: #9061c2; --t4: #c07a10; --t5: #7a8590; --t6: #3aa6c9; --t7: #c2487a; --t8: #a3541b; }
@media (prefers-color-scheme: dark) { :root { --t1: #6ea8ff; --t2: #3fcfa8; --t3: #bd97ea; --t4: #eab04f; --t5: #98a1ab; --t6: #6fd0ee;
  --t7: #f58cb5; --t8: #dd9260; } }
.t1 { color: var(--t1); } .t2 { color: var(--t2); } .t3 { color: var(--t3); } .t4 { color: var(--t4); }
.t5 { color: var(--t5); } .t6 { color: var(--t6); } .t7 { color: var(--t7); } .t8 { color: var(--t8); }
.key { white-space: nowrap; margin-right: 14px; font-size: 0.88rem; }
.key::before { content: ""; display: inline-block; width: 0.75em; height: 0.75em; border-radius: 2px; margin-right: 0.4em; background: currentColor; }
.key b { color: var(--ink); font-weight: 400; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 170px), 1fr)); gap: 14px; margin: 18px 0 6px; }
.card { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 12px 14px; }
.card b { display: block; font-size: 1.3rem; letter-spacing: -0.01em; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 0.9rem; }
.say { border-radius: 8px; padding: 10px 14px; margin: 12px 0; background: var(--yes-back); color: var(--yes); }
.warn { background: var(--no-back); color: var(--no); }
.bars { margin: 14px 0; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
.bars p { display: grid; grid-template: "name stack value" / 12.5em 1fr 9.5em; gap: 2px 12px; align-items: center; margin: 6px 0; }
.bars .name { grid-area: name; } .bars .stack { grid-area: stack; } .bars .value { grid-area: value; }
.bars .gap { display: block; height: 8px; }
.stack { position: relative; display: flex; height: 20px; border-radius: 4px; background: var(--track); overflow: hidden; }
.stack i { display: block; height: 100%; flex: none; background: currentColor; border-right: 1px solid var(--paper); box-sizing: border-box; }
.stack .limit { position: absolute; top: 0; bottom: 0; width: 2px; background: var(--ink); border: 0; }
.bars .chosen { font-weight: 700; }
.bars .over { color: var(--no); }
.figures td { padding: 5px 10px; text-align: right; } .figures th { text-align: right; }
.figures td:first-child, .figures th:first-child { text-align: left; padding-left: 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 760px) {
  .bars p { grid-template: "name value" "stack stack" / 1fr max-content; }
}
"""


def page(plan: RunPlan) -> str:
    """The whole document."""
    stage = plan.stage
    title = f"Plan of {stage.config.model.name}, stage {plan.asked}"
    command = f"<pre>{escape(launch_command(plan, stage.chosen))}</pre>" if stage.chosen else ""
    said = "".join(f'<p class="say warn">{escape(warning)}</p>' for warning in plan.warnings)
    compared = f'<p class="lead">For comparison: {escape(plan.paper)}.</p>' if plan.paper else ""
    tone = "say" if stage.chosen else "say warn"
    sections = (
        ("time", "Days and GPU-hours", f"{compared}{_figures(time_table(plan))}"),
        ("memory", "Memory of a GPU", f"{_memory(stage)}{_details(memory_table(stage))}"),
        ("flops", "FLOPs of a row", f"{_work(stage)}{_figures(work_table(stage))}"),
        ("sending", "Communication", _figures(sending_table(stage))),
    )
    menu = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name, _ in sections)
    body = "".join(f'<section id="{anchor}"><h2>{name}</h2>{html}</section>' for anchor, name, html in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<style>{REPORT_STYLE}{STYLE}</style></head><body><header><h1>{escape(title)}</h1><p>{escape(headline(plan))}</p>"
        f"<nav>{menu}</nav></header><main>{_cards(plan)}{said}"
        f'<p class="{tone}">{escape(recommendation(plan))}</p>{command}'
        f'<p class="lead">{escape(assumptions(plan))}</p>{body}</main>'
        "<footer>Written by <code>janus-train plan</code>: arithmetic, not a measurement.</footer></body></html>\n"
    )


def _cards(plan: RunPlan) -> str:
    stage = plan.stage
    memory = f"{stage.chosen.total / GB:.1f} of {stage.card.memory / GB:.1f} GB" if stage.chosen else "does not fit"
    shown = (
        (f"{stage.days:.2f} days", f"stage {plan.asked}, {stage.gpu_hours:,.0f} GPU-hours"),
        (f"{plan.days:.2f} days", f"all three stages, {plan.gpu_hours:,.0f} GPU-hours"),
        (f"{stage.step_s:.2f} s", f"a step of {stage.config.batch.rows_per_step} rows"),
        (memory, f"on each {stage.card.name}"),
        (f"{stage.flops_a_row / 1e12:.1f} TFLOP", f"useful, a row of {stage.config.batch.row_tokens} tokens"),
    )
    cards = "".join(f'<div class="card"><b>{escape(what)}</b><span>{escape(of)}</span></div>' for what, of in shown)
    return f'<div class="cards">{cards}</div>'


def _memory(stage: StagePlan) -> str:
    """A bar a way of running: one row a micro-batch, and what was chosen as it was chosen."""
    chosen = stage.chosen
    widest = min(max(option.total for option in _shown(stage)), 4 * stage.card.memory)
    widest = max(widest, 1.05 * stage.card.memory)
    bars = []
    for sharing in SHARDING_STRATEGIES:
        for policy in POLICIES:
            option = stage.option(sharing, policy, 1)
            bars.append(_bar(f"{sharing}, {policy}", option, widest, option is chosen))
        bars.append('<span class="gap"></span>')
    if chosen and chosen.micro_rows > 1:
        name = f"{chosen.sharing.name}, {chosen.policy}, {chosen.micro_rows} rows"
        bars.append(_bar(name, chosen, widest, True))
    keys = "".join(f'<span class="key t{tone}"><b>{name}</b></span>' for name, tone in TONES.items())
    return (
        f'<p class="lead">One row of {stage.config.batch.row_tokens} tokens a micro-batch; the line is the card, '
        f"{stage.card.memory / GB:.1f} GB, and all but 2 GB of it can be used. Bold: recommended.</p>"
        f'<p>{keys}</p><div class="bars">{"".join(bars)}</div>'
    )


def _shown(stage: StagePlan) -> list[Option]:
    return [option for option in stage.options if option.micro_rows == 1 or option is stage.chosen]


def _bar(name: str, option: Option, widest: float, chosen: bool) -> str:
    parts = {f"t{TONES[what]}": size for what, size in breakdown(option).items()}
    limit = f'<i class="limit" style="left:{100 * option.memory / widest:.2f}%"></i>'
    css = "name chosen" if chosen else "name"
    value = "value" if option.fits else "value over"
    told = f"{name}: {option.total / GB:.1f} GB"
    return (
        f'<p><span class="{css}">{escape(name)}</span>{_stack(parts, widest, told, limit)}'
        f'<span class="{value}">{option.total / GB:.1f} GB{"" if option.fits else ", too much"}</span></p>'
    )


def _stack(parts: Mapping[str, float], whole: float, told: str, after: str = "") -> str:
    boxes = "".join(
        f'<i class="{css}" style="width:{100 * size / whole:.3f}%"></i>' for css, size in parts.items() if size > 0
    )
    return f'<span class="stack" role="img" aria-label="{escape(told)}">{boxes}{after}</span>'


def _work(stage: StagePlan) -> str:
    """Forward, input gradients and weight gradients of every part, on one scale."""
    widest = max(work.total for work in stage.work.values())
    bars = []
    for piece, work in stage.work.items():
        parts = {"t1": work.forward, "t2": work.input_gradients, "t4": work.weight_gradients}
        name, share = piece.replace("_", " "), f"{100 * work.total / stage.flops_a_row:.1f} %"
        bars.append(
            f'<p><span class="name">{name}</span>{_stack(parts, widest, f"{name}: {share}")}<span class="value">{share}</span></p>'
        )
    keys = (("t1", "forward"), ("t2", "input gradients"), ("t4", "weight gradients"))
    legend = "".join(f'<span class="key {tone}"><b>{name}</b></span>' for tone, name in keys)
    return f'<p>{legend}</p><div class="bars">{"".join(bars)}</div>'


def _figures(table: Table) -> str:
    """A terminal's table as HTML."""
    title = f"<h3>{escape(str(table.title))}</h3>" if table.title else ""
    heads = "".join(f"<th>{escape(str(column.header))}</th>" for column in table.columns)
    return f'{title}<div class="scroll"><table class="figures"><thead><tr>{heads}</tr></thead><tbody>{_rows(table)}</tbody></table></div>'


def _rows(table: Table) -> str:
    columns: Sequence[list[str]] = [[str(cell) for cell in column.cells] for column in table.columns]
    rows = zip(*columns, strict=True)
    return "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)


def _details(table: Table) -> str:
    return f"<details><summary>The same in figures</summary>{_figures(table)}</details>"
