"""Formats the results as a table for the terminal, eighty columns wide."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table


def results_table(results: dict[str, Any]) -> Table:
    """One line per measure: the result, beside the target, chance, and the detector's results on true images."""
    table = Table(
        title=f"Held-out scenes: {results['num_prompts']} prompts, {results['num_questions']} questions",
        title_justify="left",
        caption=_caption(results),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("measure")
    for name in ("right", "%", "95 %", "asked", "chance", "true", "VQ"):
        table.add_column(name, justify="right", no_wrap=True)
    group = None
    for m in results["measures"]:
        if group not in (None, m["group"]):
            table.add_section()
        group = m["group"]
        ceilings = [f"{m[key]['percent']:.1f}" if key in m else "" for key in ("true_pictures", "round_trips")]
        interval = f"{m['low']:.1f}-{m['high']:.1f}"
        table.add_row(
            m["label"],
            f"{m['right']}/{m['n']}",
            f"[bold]{m['percent']:.1f}[/bold]",
            interval,
            _target(m),
            f"{m['chance']:.2g}",
            *ceilings,
        )
    return table


def _caption(results: dict[str, Any]) -> str:
    return (
        f"Dialogues: perplexity {results['text']['perplexity']:.2f} per token. true, VQ: the detector's own accuracy on the true "
        f"images, and on them through the VQ tokenizer and back. {results['seconds']:.0f} s."
    )


def _target(m: dict[str, Any]) -> str:
    """The target, and whether it is reached."""
    if "asked" not in m:
        return ""
    figure = f"{m['asked']['percent']:g}"
    return f"{figure} [green]yes[/green]" if m["reached"] else f"{figure} [red]no[/red]"
