"""The values of the runs' sections: trained parts, curves of training and validation, ratio of the kinds, previews and
settings of each stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from janus_train.config import PARTS
from janus_train.data.types import KINDS, Kind
from janus_train.pages.images import image_uri
from janus_train.report.charts import Chart, Series, line_chart
from janus_train.report.read import Line, StageRun, step_of
from janus_train.text import duration

MAX_PREVIEWS = 6

RATE_TONES = ("t1", "t2", "t3", "t4", "t5", "t6", "t7")
"""The colours of parts with learning rates of their own, as classes of the style sheet."""

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
    """Images generated at a step; ``image`` is a ``data:`` URI, or None if missing."""

    name: str
    image: str | None


@dataclass(frozen=True)
class PreviewQuestion:
    """A question about a held-out image, and the answers at the steps of a strip; None where there is none."""

    text: Any
    expected: Any
    image: str | None
    answers: list[Any]


@dataclass(frozen=True)
class PreviewStrip:
    """What the model drew and answered during training, a column per step."""

    steps: list[str]
    previews: list[Preview]
    """One per step; empty if no step has any."""
    questions: list[PreviewQuestion]


@dataclass(frozen=True)
class Stage:
    """A run's section of the page."""

    anchor: str
    title: str
    purpose: str
    facts: list[str]
    mixture: RatioSummary | None
    validation: str
    """The last and the best validation in words; empty if there was none."""
    charts: list[Chart]
    strip: PreviewStrip | None
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
    pieces = run.parts.get(part, {}).get("pieces") or []
    if pieces:
        by_lora = ", LoRA" if run.parts[part].get("adapter") else ""
        return PartState(f"trained: {', '.join(map(str, pieces))}{by_lora}", True, new)
    if run.parts.get(part, {}).get("adapter"):
        return PartState("LoRA", True, new)
    return PartState("frozen", False, new)


def stage_of(run: StageRun, anchor: str) -> Stage:
    """Collects a run's curves, ratio of kinds, validation, previews, configuration and machine."""
    config = run.config
    optim, batch = config.get("optim") or {}, config.get("batch") or {}
    num_tokens = sum(run.series("tokens")[1])
    facts = [
        f"{len(run.steps)} steps in {duration(run.seconds)}",
        f"{num_tokens:,.0f} tokens" if num_tokens else "",
        f"{batch['rows_per_step']} rows of {batch['row_tokens']} tokens per step" if batch else "",
        f"learning rate {optim['learning_rate']:g}, {_schedule(optim)}{_own_rates(optim)}" if optim else "",
    ]
    return Stage(
        anchor=anchor,
        title=title_of(run),
        purpose=PURPOSES.get(config.get("stage", 0), ""),
        facts=[fact for fact in facts if fact],
        mixture=_ratio_summary(run),
        validation=_validation(run),
        charts=list(_charts(run)),
        strip=_strip(run),
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        manifest=flatten(run.manifest),
    )


def _schedule(optim: dict[str, Any]) -> str:
    """The schedule's name, and the length of its decay if that is set."""
    decay = optim.get("decay_steps")
    if decay is None:
        return str(optim["schedule"])
    return f"{optim['schedule']}, falling over the last {f'{100 * decay:g} %' if decay < 1 else f'{decay} steps'}"


def _own_rates(optim: dict[str, Any]) -> str:
    """The learning rates of parts that have their own, in words."""
    rates = {part: options.get("learning_rate") for part, options in (optim.get("parts") or {}).items()}
    words = [f"{part.replace('_', ' ')} {rate:g}" for part, rate in rates.items() if rate is not None]
    return f" ({', '.join(words)})" if words else ""


def _charts(run: StageRun) -> Iterator[Chart]:
    requested_shares = _requested_shares(run)
    for kind in KINDS:
        if requested_shares.get(kind) == 0:
            continue
        label = {"text": "text", "understanding": "understanding", "generation": "images"}[kind]
        held_out = Series("held out", *run.series(f"validation/loss/{kind}"), "plain")
        training = Series("training" if held_out.values else "", *run.series(f"loss/{kind}"), kind)
        yield line_chart(f"Loss on {label}", [training, held_out])
    share_lines = [Series(kind, *_share_series(run, kind), kind, requested_shares.get(kind)) for kind in KINDS]
    title = f"{_unit(run).capitalize()} of each kind, share per step"
    yield line_chart(title, share_lines, unit=" %", from_zero=True, note="dashed: requested")
    yield line_chart("Learning rate", _rate_lines(run), from_zero=True, exact=True)
    steps, fill = run.series("fill")
    percent = [100 * value for value in fill]
    yield line_chart("Fill of the packed rows", [Series("", steps, percent, "plain")], unit=" %", top=100)
    yield line_chart("Tokens per second", [Series("", *run.series("tokens_per_s"), "plain")], from_zero=True)
    yield line_chart("Gradient norm before clipping", [Series("", *run.series("grad_norm"), "plain")], from_zero=True)


def _rate_lines(run: StageRun) -> list[Series]:
    """The learning rate, and those of parts that have their own."""
    own = [(part, run.series(f"learning_rate/{part}")) for part in PARTS]
    lines = [
        Series(part.replace("_", " "), *series, tone)
        for (part, series), tone in zip([entry for entry in own if entry[1][1]], RATE_TONES, strict=False)
    ]
    return [Series("other parts" if lines else "", *run.series("learning_rate"), "plain"), *lines]


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


def _validation(run: StageRun) -> str:
    """Loss on held-out samples: the last one, by source, and the lowest one."""
    steps, values = run.series("validation/loss")
    if not steps:
        return ""
    line = next(line for line in run.steps if line["step"] == steps[-1])
    sources = [
        f"{key.removeprefix('validation/source/')} {value:.3f}"
        for key, value in line.items()
        if key.startswith("validation/source/") and isinstance(value, (int, float))
    ]
    lowest = min(range(len(steps)), key=values.__getitem__)
    text = f"Loss on held-out samples at step {steps[-1]:,}: {values[-1]:.3f}"
    text += f" ({', '.join(sources)})" if sources else ""
    return text + f"; the lowest was {values[lowest]:.3f} at step {steps[lowest]:,}"


def _strip(run: StageRun) -> PreviewStrip | None:
    """The steps with previews, evenly spread and always with the last one; None if there are none."""
    images = {step_of(path): path for path in run.previews}
    all_steps = sorted(images.keys() | run.answers.keys())
    if not all_steps:
        return None
    steps = all_steps[:: -max(1, -(-len(all_steps) // MAX_PREVIEWS))][::-1]
    previews = [Preview(f"step-{step:06d}", _image(run, images.get(step))) for step in steps]
    return PreviewStrip([f"{step:,}" for step in steps], previews if images else [], _questions(run, steps))


def _image(run: StageRun, path: Path | None) -> str | None:
    return None if path is None else image_uri(run.folder, str(path.relative_to(run.folder)))


def _questions(run: StageRun, steps: list[int]) -> list[PreviewQuestion]:
    """The questions of the last step that has any, with the answers of each step to the same question."""
    answers = [
        {(line["question"], line["image"]): line["answer"] for line in run.answers.get(step, [])} for step in steps
    ]
    last_lines: list[Line] = next((run.answers[step] for step in reversed(steps) if run.answers.get(step)), [])
    return [
        PreviewQuestion(
            line["question"],
            line["expected"],
            image_uri(run.folder, line["image"]),
            [of_step.get((line["question"], line["image"])) for of_step in answers],
        )
        for line in last_lines
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
