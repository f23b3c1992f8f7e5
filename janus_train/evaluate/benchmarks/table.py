"""The results as a table for the terminal, beside the papers' rows."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from janus_train.text import printable_line, rounded


def results_table(results: dict[str, Any]) -> Table:
    """One row per task: what the papers print, with its interval, and the papers' figures."""
    table = Table(
        title="Published benchmarks",
        title_justify="left",
        caption=_caption(results["tasks"]),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("benchmark", "measure"):
        table.add_column(name)
    for name in ("samples", "unparsed", "score", "95 %", "Janus-1.3B", "Pro-1B", "Pro-7B"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results["tasks"].values():
        published = result["published"]
        table.add_row(
            result["title"],
            *_measure(result),
            *(_figure(published[name]) for name in ("janus_1_3b", "janus_pro_1b", "janus_pro_7b")),
        )
    return table


def groups_table(result: dict[str, Any]) -> Table:
    """All scores of one task: over all, and by category."""
    table = Table(title=result["title"], title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("measure", "group"):
        table.add_column(name)
    for name in ("right", "score", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for score in result["scores"]:
        right = str(score["n"]) if score["right"] is None else f"{score['right']}/{score['n']}"
        table.add_row(_plain(score["name"]), _plain(score["group"]), right, rounded(score["value"]), _interval(score))
    return table


def _interval(score: dict[str, Any]) -> str:
    return "" if score["low"] is None else f"{rounded(score['low'])}-{rounded(score['high'])}"


def _measure(result: dict[str, Any]) -> tuple[str, ...]:
    samples = str(result["manifest"]["num_samples"])
    score = result["headline"]
    if score is None:
        return "", samples, "", "", ""
    name = f"{score['name']}, {score['group']}" if score["group"] else score["name"]
    return (
        _plain(name),
        samples,
        str(result["num_unparsed"]),
        f"[bold]{rounded(score['value'])}[/bold]",
        _interval(score),
    )


def _plain(text: str) -> str:
    """Names of categories, folders and files come from data: nothing in them is markup or acts on the terminal."""
    return escape(printable_line(text))


def _figure(value: float | None) -> str:
    return "" if value is None else rounded(value, 2 if value < 1 else 1)


def _caption(results: dict[str, Any]) -> str:
    sources = sorted({result["published"]["source"] for result in results.values()})
    notes = [result["note"] for result in results.values() if result["note"]]
    return _plain(" ".join([f"Janus-1.3B, Pro-1B, Pro-7B: as printed in {'; '.join(sources)}.", *notes]))
