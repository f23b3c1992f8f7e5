"""The results as a table for the terminal: eighty columns are enough."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

WIDTH = 104
"""Where the output is no terminal."""


def results_table(results: dict[str, Any]) -> Table:
    """One line a measure: what was reached, beside what was asked and what the detector says of true images."""
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
            _asked(m),
            _chance(m),
            *ceilings,
        )
    return table


def _caption(results: dict[str, Any]) -> str:
    return (
        f"Dialogues: perplexity {results['text']['perplexity']:.2f} a token. true, VQ: the detector's own accuracy on the true "
        f"images, and on them through the VQ tokenizer and back. {results['seconds']:.0f} s."
    )


def _chance(m: dict[str, Any]) -> str:
    times = f" ({m['times_chance']:.0f}x)" if "times_chance" in m else ""
    return f"{m['chance']:.2g}{times}"


def _asked(m: dict[str, Any]) -> str:
    """The figure, and whether it is reached."""
    if "asked" not in m:
        return ""
    asked = m["asked"]
    figure = f"{asked['percent']:g}" if "percent" in asked else f"{asked['times_chance']:g}x"
    return f"{figure} [green]yes[/green]" if m["reached"] else f"{figure} [red]no[/red]"
