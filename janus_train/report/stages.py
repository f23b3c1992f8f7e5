"""The sections of the runs: what was trained, each stage's curves, mixture and previews, the settings."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import yaml

from janus_train.config import PARTS
from janus_train.data.types import KINDS, Kind
from janus_train.report.charts import Series, line_chart
from janus_train.report.html import duration, flatten, picture
from janus_train.report.read import Run, step_of

MAX_PREVIEWS = 6

WHAT_STAGES_DO = {
    1: "adaptors and image head: class name to picture, picture to name",
    2: "unified pretraining: captions in both directions, and text",
    3: "fine-tuning: conversations, pictures to draw, text",
}


def title_of(run: Run) -> str:
    """``Stage 2``, or the folder's name."""
    stage = run.config.get("stage")
    return f"Stage {stage}" if stage else run.name


def parts_table(runs: list[Run]) -> str:
    """What was trained and what was frozen, stage by stage."""
    sizes = {part: found["parameters"] for run in runs for part, found in run.parts.items()}
    head = "".join(f"<th>{escape(title_of(run))}</th>" for run in runs)
    rows = []
    for part in PARTS:
        size = f"{sizes[part]:,}" if part in sizes else "–"
        states = "".join(f"<td>{_state(run, part)}</td>" for run in runs)
        rows.append(f'<tr><td class="name">{part.replace("_", " ")}</td><td>{size}</td>{states}</tr>')
    if sizes:
        rows.append(
            f'<tr class="total"><td class="name">all</td><td>{sum(sizes.values()):,}</td>{"<td></td>" * len(runs)}</tr>'
        )
    return (
        '<section id="parts"><h2>What was trained</h2><div class="scroll"><table class="parts"><thead><tr><th>part</th>'
        f"<th>parameters</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _state(run: Run, part: str) -> str:
    new = " <small>new</small>" if run.parts.get(part, {}).get("new") else ""
    if part in (run.config.get("train_parts") or []):
        return f'<span class="chip yes">trained</span>{new}'
    if run.parts.get(part, {}).get("adapter"):
        return f'<span class="chip yes">LoRA</span>{new}'
    return f'<span class="chip">frozen</span>{new}'


def stage(run: Run) -> str:
    """A run's curves, its mixture, and its preview pictures."""
    config, steps = run.config, run.steps
    optim, batch = config.get("optim") or {}, config.get("batch") or {}
    what = WHAT_STAGES_DO.get(config.get("stage", 0), "")
    tokens = sum(run.series("tokens")[1])
    facts = [
        f"{len(steps)} steps in {duration(run.seconds)}",
        f"{tokens:,.0f} tokens" if tokens else "",
        f"{batch['rows_per_step']} rows of {batch['row_tokens']} a step" if batch else "",
        f"learning rate {optim['learning_rate']:g}, {optim['schedule']}" if optim else "",
    ]
    lead = " · ".join(escape(fact) for fact in facts if fact)
    return (
        f'<section id="{escape(run.name)}"><h2>{escape(title_of(run))}{f"<small>{escape(what)}</small>" if what else ""}</h2>'
        f'<p class="lead">{lead}</p>{_mixture(run)}<div class="charts">{"".join(_charts(run))}</div>{_previews(run)}</section>'
    )


def _charts(run: Run) -> Iterable[str]:
    shares = _asked_shares(run)
    for kind in KINDS:
        if shares.get(kind) == 0:
            continue
        label = {"text": "text", "understanding": "understanding", "generation": "pictures"}[kind]
        yield line_chart(f"Loss on {label}", [Series("", *run.series(f"loss/{kind}"), kind)])
    realised = [Series(kind, *_realised(run, kind), kind, shares.get(kind)) for kind in KINDS]
    yield line_chart(
        f"{_unit(run).capitalize()} by kind, share of a step", realised, unit=" %", from_zero=True, note="dashed: asked"
    )
    yield line_chart("Learning rate", [Series("", *run.series("learning_rate"), "plain")], from_zero=True, exact=True)
    steps, fill = run.series("fill")
    percent = [100 * value for value in fill]
    yield line_chart("Fill of the packed rows", [Series("", steps, percent, "plain")], unit=" %", top=100)
    yield line_chart("Tokens a second", [Series("", *run.series("tokens_per_s"), "plain")], from_zero=True)
    yield line_chart("Gradient norm before clipping", [Series("", *run.series("grad_norm"), "plain")], from_zero=True)


def _asked_shares(run: Run) -> dict[str, float]:
    ratio = run.config.get("ratio") or {}
    total = sum(ratio.get(kind, 0) for kind in KINDS)
    return {kind: 100 * ratio[kind] / total for kind in KINDS if kind in ratio} if total else {}


def _unit(run: Run) -> str:
    """What the ratio counts: samples or tokens."""
    return str((run.config.get("ratio") or {}).get("unit", "samples"))


def _realised(run: Run, kind: Kind) -> tuple[list[int], list[float]]:
    """Percent of each step's samples (or tokens) of ``kind``; nothing for a kind that the whole run has none of."""
    steps, shares = [], []
    for line in run.steps:
        counts = {k: line.get(f"{_unit(run)}/{k}", 0) for k in KINDS}
        if sum(counts.values()):
            steps.append(int(line["step"]))
            shares.append(100 * counts[kind] / sum(counts.values()))
    return (steps, shares) if any(shares) else ([], [])


def _mixture(run: Run) -> str:
    """Asked and realised ratio over the whole run."""
    asked = _asked_shares(run)
    counts = {kind: sum(run.series(f"{_unit(run)}/{kind}")[1]) for kind in KINDS}
    total = sum(counts.values())
    if not total or not asked:
        return ""
    ratio = run.config["ratio"]
    names = " : ".join(f'<span class="key {kind}">{kind}</span>' for kind in KINDS)
    realised = " / ".join(f"{100 * counts[kind] / total:.1f}" for kind in KINDS)
    return (
        f'<p class="mixture">{names} = {":".join(str(ratio[kind]) for kind in KINDS)} asked, that is '
        f"{' / '.join(f'{asked[kind]:.1f}' for kind in KINDS)} %; realised <b>{realised} %</b> of {total:,.0f} {_unit(run)}.</p>"
    )


def _previews(run: Run) -> str:
    if not run.previews:
        return ""
    stride = max(1, -(-len(run.previews) // MAX_PREVIEWS))
    kept = run.previews[::-1][::stride][::-1]
    figures = "".join(
        f"<figure>{picture(path, path.stem)}<figcaption>step {step_of(path):,}</figcaption></figure>" for path in kept
    )
    return f'<h3>Previews while training</h3><div class="previews">{figures}</div>'


def setting(runs: list[Run]) -> str:
    """Configuration and machine of each run, folded."""
    folded = []
    for run in runs:
        config = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        rows = "".join(
            f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in flatten(run.manifest)
        )
        folded.append(
            f"<details><summary>{escape(title_of(run))}: configuration</summary><pre>{escape(config)}</pre></details>"
            f"<details><summary>{escape(title_of(run))}: machine, versions, digests</summary>"
            f'<div class="scroll"><table class="manifest"><tbody>{rows}</tbody></table></div></details>'
        )
    return f'<section id="setting"><h2>Configuration and machine</h2>{"".join(folded)}</section>'
