"""Formats the results as tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from janus_train.text import duration, printable_line

MAX_GROUPS = 20
"""The most frequent values of ``--by``'s field; results.json has all."""
NONE = "–"


def results_table(results: dict[str, Any]) -> Table:
    """One table in another: losses by source, scores of answers, captions and images, and what was not used."""
    table = Table.grid()
    for part in (_losses(results), _answers(results), _captions(results), _images(results)):
        if part is not None:
            table.add_row(part)
    for line in results["notes"]:
        table.add_row(Text(printable_line(line)))
    table.add_row(Text(f"{duration(results['seconds'])}"))
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _name(text: str) -> Text:
    return Text(printable_line(text))


def _losses(results: dict[str, Any]) -> Table:
    table = _table("Losses (nats per token or code)", "source", "kind", "samples", "targets", "loss", "perplexity")
    for name, source in results["sources"].items():
        values = source["losses"]
        figures = (f"{values['targets']:,}", *_loss(values["loss"])) if values else (NONE,) * 3
        table.add_row(_name(name), source["kind"], f"{source['num_used']:,}", *figures)
    table.add_section()
    for kind, values in results["losses"]["by_kind"].items():
        table.add_row("all", kind, "", f"{values['targets']:,}", *_loss(values["loss"]))
    return table


def _loss(value: float) -> tuple[str, str]:
    return f"{value:.4f}", f"{math.exp(min(value, 700)):.2f}"


def _answers(results: dict[str, Any]) -> Table | None:
    if not results["answers"]:
        return None
    table = _table("Answers", "", "n", "exact %", "95 %", "contains %", "95 %", "F1 %", "95 %")
    for name, scores in _rows(results["answers"], results["tasks"]["by"], table):
        shares = [figure for key in ("exact", "contains") for figure in _share(scores[key])]
        table.add_row(_name(name), f"{scores['n']:,}", *shares, *_mean(scores["f1"], 100, 1))
    return table


def _captions(results: dict[str, Any]) -> Table | None:
    if not results["captions"]:
        return None
    table = _table("Captions", "", "images", "true ones", "CIDEr-D", "95 %")
    for name, scores in _rows(results["captions"], results["tasks"]["by"], table):
        table.add_row(_name(name), f"{scores['n']:,}", f"{scores['num_references']:,}", *_mean(scores["cider"], 1, 2))
    return table


def _images(results: dict[str, Any]) -> Table | None:
    images = results["images"]
    if not images["n"]:
        return None
    table = _table("Images", "", "n", "score", "95 %", "true images")
    if "clip" in images:
        clip = images["clip"]
        table.add_row("CLIP score", f"{images['n']:,}", *_mean(clip, 1, 2), f"{clip['of_true_images']:.2f}")
    if "fid" in images:
        table.add_row("FID", f"{images['n']:,}", f"{images['fid']['value']:.2f}", NONE, NONE)
    if not table.rows:
        table.add_row("generated (--clip and --inception score them)", f"{images['n']:,}", NONE, NONE, NONE)
    return table


def _rows(scores: dict[str, Any], by: str | None, table: Table) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "all", scores["all"]
    if len(scores["by_source"]) > 1:
        table.add_section()
        yield from scores["by_source"].items()
    groups = sorted(scores.get("by_group", {}).items(), key=lambda pair: -pair[1]["n"])
    if groups:
        table.add_section()
        yield from ((f"{by}: {name}", of_group) for name, of_group in groups[:MAX_GROUPS])
        if len(groups) > MAX_GROUPS:
            table.caption, table.caption_justify = f"and {len(groups) - MAX_GROUPS} more in results.json", "left"


def _share(share: dict[str, Any]) -> tuple[str, str]:
    return f"{share['percent']:.1f}", f"{share['low']:.1f}-{share['high']:.1f}"


def _mean(mean: dict[str, Any], scale: float, digits: int) -> tuple[str, str]:
    return f"{scale * mean['mean']:.{digits}f}", f"{scale * mean['low']:.{digits}f}-{scale * mean['high']:.{digits}f}"
