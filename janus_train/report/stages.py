"""The values of the runs' sections: trained parts, curves, ratio of the kinds, previews and settings of each stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from janus_train.config import PARTS
from janus_train.data.types import KINDS, Kind
from janus_train.pages.images import image_uri
from janus_train.report.charts import Chart, Series, line_chart
from janus_train.report.read import StageRun, step_of
from janus_train.text import duration

MAX_PREVIEWS = 6

PURPOSES = {
    1: "adaptors and image head: class name to image, image to name",
    2: "unified pretraining: captions in both directions, and text",
    3: "fine-tuning: conversations, images to generate, text",
}
"""What each stage teaches."""


@dataclass(frozen=True)
class PartState:
    """What a stage does with a part."""

    label: str
    learns: bool
    new: bool


@dataclass(frozen=True)
class PartRow:
    """A row of the table of parts."""

    name: str
    size: str
    states: list[PartState]


@dataclass(frozen=True)
class PartsTable:
    """The table of parts; ``total`` is empty where no size is known."""

    rows: list[PartRow]
    total: str


@dataclass(frozen=True)
class RatioSummary:
    """The requested shares of the kinds, and the actual ones over the whole run."""

    ratio: str
    requested_shares: str
    actual_shares: str
    total: str


@dataclass(frozen=True)
class Preview:
    """Images generated during training; ``image`` is a ``data:`` URI, or None if missing."""

    name: str
    step: str
    image: str | None


@dataclass(frozen=True)
class Stage:
    """A run's section of the page."""

    anchor: str
    title: str
    purpose: str
    facts: list[str]
    mixture: RatioSummary | None
    charts: list[Chart]
    previews: list[Preview]
    config: str
    manifest: list[tuple[str, str]]


def title_of(run: StageRun) -> str:
    """Returns ``Stage 2``, for example, or the folder's name."""
    stage = run.config.get("stage")
    return f"Stage {stage}" if stage else run.name


def parts_of(runs: list[StageRun]) -> PartsTable:
    """Tabulates which parts each stage trained and which were frozen."""
    sizes = {part: values["parameters"] for run in runs for part, values in run.parts.items()}
    rows = [
        PartRow(
            part.replace("_", " "), f"{sizes[part]:,}" if part in sizes else "–", [_state(run, part) for run in runs]
        )
        for part in PARTS
    ]
    return PartsTable(rows, f"{sum(sizes.values()):,}" if sizes else "")


def _state(run: StageRun, part: str) -> PartState:
    new = bool(run.parts.get(part, {}).get("new"))
    if part in (run.config.get("train_parts") or []):
        return PartState("trained", True, new)
    if run.parts.get(part, {}).get("adapter"):
        return PartState("LoRA", True, new)
    return PartState("frozen", False, new)


def stage_of(run: StageRun, anchor: str) -> Stage:
    """Collects a run's curves, ratio of kinds, previews, configuration and machine."""
    config = run.config
    optim, batch = config.get("optim") or {}, config.get("batch") or {}
    num_tokens = sum(run.series("tokens")[1])
    facts = [
        f"{len(run.steps)} steps in {duration(run.seconds)}",
        f"{num_tokens:,.0f} tokens" if num_tokens else "",
        f"{batch['rows_per_step']} rows of {batch['row_tokens']} tokens per step" if batch else "",
        f"learning rate {optim['learning_rate']:g}, {optim['schedule']}" if optim else "",
    ]
    return Stage(
        anchor=anchor,
        title=title_of(run),
        purpose=PURPOSES.get(config.get("stage", 0), ""),
        facts=[fact for fact in facts if fact],
        mixture=_ratio_summary(run),
        charts=list(_charts(run)),
        previews=_previews(run),
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        manifest=flatten(run.manifest),
    )


def _charts(run: StageRun) -> Iterator[Chart]:
    requested_shares = _requested_shares(run)
    for kind in KINDS:
        if requested_shares.get(kind) == 0:
            continue
        label = {"text": "text", "understanding": "understanding", "generation": "images"}[kind]
        yield line_chart(f"Loss on {label}", [Series("", *run.series(f"loss/{kind}"), kind)])
    share_lines = [Series(kind, *_share_series(run, kind), kind, requested_shares.get(kind)) for kind in KINDS]
    title = f"{_unit(run).capitalize()} of each kind, share per step"
    yield line_chart(title, share_lines, unit=" %", from_zero=True, note="dashed: requested")
    yield line_chart("Learning rate", [Series("", *run.series("learning_rate"), "plain")], from_zero=True, exact=True)
    steps, fill = run.series("fill")
    percent = [100 * value for value in fill]
    yield line_chart("Fill of the packed rows", [Series("", steps, percent, "plain")], unit=" %", top=100)
    yield line_chart("Tokens per second", [Series("", *run.series("tokens_per_s"), "plain")], from_zero=True)
    yield line_chart("Gradient norm before clipping", [Series("", *run.series("grad_norm"), "plain")], from_zero=True)


def _requested_shares(run: StageRun) -> dict[str, float]:
    ratio = run.config.get("ratio") or {}
    total = sum(ratio.get(kind, 0) for kind in KINDS)
    return {kind: 100 * ratio[kind] / total for kind in KINDS if kind in ratio} if total else {}


def _unit(run: StageRun) -> str:
    """The unit that the ratio counts: samples or tokens."""
    return str((run.config.get("ratio") or {}).get("unit", "samples"))


def _share_series(run: StageRun, kind: Kind) -> tuple[list[int], list[float]]:
    """The share of ``kind`` in each step's samples or tokens, in percent; empty if no step has any."""
    steps, shares = [], []
    for line in run.steps:
        counts = {k: line.get(f"{_unit(run)}/{k}", 0) for k in KINDS}
        if sum(counts.values()):
            steps.append(int(line["step"]))
            shares.append(100 * counts[kind] / sum(counts.values()))
    return (steps, shares) if any(shares) else ([], [])


def _ratio_summary(run: StageRun) -> RatioSummary | None:
    """The requested and actual shares over the whole run; None if nothing was requested or counted."""
    requested_shares = _requested_shares(run)
    counts = {kind: sum(run.series(f"{_unit(run)}/{kind}")[1]) for kind in KINDS}
    total = sum(counts.values())
    if not total or not requested_shares:
        return None
    ratio = run.config["ratio"]
    return RatioSummary(
        ratio=":".join(str(ratio[kind]) for kind in KINDS),
        requested_shares=" / ".join(f"{requested_shares[kind]:.1f}" for kind in KINDS),
        actual_shares=" / ".join(f"{100 * counts[kind] / total:.1f}" for kind in KINDS),
        total=f"{total:,.0f} {_unit(run)}",
    )


def _previews(run: StageRun) -> list[Preview]:
    """Selects previews that are evenly spread, always with the last one."""
    stride = max(1, -(-len(run.previews) // MAX_PREVIEWS))
    paths = run.previews[::-1][::stride][::-1]
    return [
        Preview(path.stem, f"{step_of(path):,}", image_uri(run.folder, str(path.relative_to(run.folder))))
        for path in paths
    ]


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Flattens nested values to (dotted name, text) pairs."""
    if isinstance(value, dict):
        return [
            pair for key, item in value.items() for pair in flatten(item, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list):
        return [(prefix, ", ".join(str(item) for item in value))]
    return [(prefix, str(value))]
