"""The results as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def results_table(results: dict[str, Any]) -> Table:
    """One line a measure: what was reached, beside what was asked and what the detector says of true pictures."""
    table = Table(
        title=f"Held-out scenes: {results['num_prompts']} prompts, {results['num_questions']} questions",
        title_justify="left",
    )
    table.add_column("measure")
    for name in ("right", "95 %", "n", "chance", "asked", "", "true pictures", "VQ round trip"):
        table.add_column(name, justify="right", no_wrap=True)
    group = None
    for m in results["measures"]:
        if group not in (None, m["group"]):
            table.add_section()
        group = m["group"]
        table.add_row(
            m["label"],
            f"[bold]{m['percent']:.1f} %[/bold]",
            f"{m['low']:.0f} to {m['high']:.0f}",
            str(m["n"]),
            _chance(m),
            _asked(m),
            _reached(m),
            *(f"{m[key]['percent']:.1f} %" if key in m else "" for key in ("true_pictures", "round_trips")),
        )
    table.caption = (
        f"Dialogues: perplexity {results['text']['perplexity']:.2f} a token. True pictures and round trips: the detector's own "
        f"accuracy. {results['seconds']:.0f} s."
    )
    table.caption_justify = "left"
    return table


def _chance(m: dict[str, Any]) -> str:
    times = f" ({m['times_chance']:.0f}x)" if "times_chance" in m else ""
    return f"{m['chance']:.2g} %{times}"


def _asked(m: dict[str, Any]) -> str:
    asked = m.get("asked")
    if not asked:
        return ""
    return f"{asked['percent']:g} %" if "percent" in asked else f"{asked['times_chance']:g}x"


def _reached(m: dict[str, Any]) -> str:
    if "reached" not in m:
        return ""
    return "[green]reached[/green]" if m["reached"] else "[red]not reached[/red]"
