"""The parts of a report's page, each from what `read` found to HTML. All text goes through `escape`."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import yaml

from janus_train.config import PARTS
from janus_train.data.sample import KINDS, Kind
from janus_train.report.charts import Series, line_chart
from janus_train.report.read import Evaluation, Line, Run, step_of

MAX_PICTURES, MAX_ANSWERS, MAX_PREVIEWS = 24, 12, 6
"""How many are shown: a page of a few MB at most."""

WHAT_STAGES_DO = {
    1: "adaptors and image head: class name to picture, picture to name",
    2: "unified pretraining: captions in both directions, and text",
    3: "fine-tuning: conversations, pictures to draw, text",
}


def title_of(run: Run) -> str:
    """``Stage 2``, or the folder's name."""
    stage = run.config.get("stage")
    return f"Stage {stage}" if stage else run.name


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def picture(path: Path, alt: str, css: str = "") -> str:
    """The file inside the page; a box that says so if there is none."""
    if not path.is_file():
        return f'<span class="none {css}">no picture</span>'
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img class="{css}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


# ------------------------------------------------------------------------------------------------------------- results


def results(evaluation: Evaluation) -> str:
    """Every measure with its interval, beside what was asked and what the detector reaches on true pictures."""
    found = evaluation.results
    about = (
        f"Measured on held-out scenes: {found.get('num_prompts', 0)} prompts drawn at guidance {found.get('guidance', 0):g}, "
        f"{found.get('num_questions', 0)} questions answered. Small figures are 95 % intervals, the upright mark in a bar is "
        "what was asked. The detector is not a neural network: it looks for the nearest of all "
        f"{found.get('num_objects', 0)} object pictures. Its own accuracy on the true pictures, and on the same pictures "
        "through the VQ tokenizer and back, is the ceiling for what is drawn."
    )
    groups: dict[str, list[Line]] = {}
    for measure in found.get("measures", []):
        groups.setdefault(measure["group"], []).append(measure)
    tables = "".join(_result_table(group, measures) for group, measures in groups.items())
    return f'<section id="results"><h2>Results</h2><p class="lead">{escape(about)}</p>{tables}{_text_line(found)}</section>'


def _result_table(group: str, measures: list[Line]) -> str:
    ceilings = any("true_pictures" in measure for measure in measures)
    head = ["", "", "right", "n", "chance", "asked"] + (["true pictures", "VQ round trip"] if ceilings else [])
    cells = "".join(f"<th>{name}</th>" for name in head)
    rows = "".join(_result_row(measure, ceilings) for measure in measures)
    return f'<h3>{escape(group.capitalize())}</h3><table class="results"><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>'


def _result_row(m: Line, ceilings: bool) -> str:
    mark = (
        f'<i class="mark" style="left:{m["asked"]["percent"]:.2f}%"></i>' if "percent" in (m.get("asked") or {}) else ""
    )
    bar = (
        f'<div class="bar"><i class="fill" style="width:{m["percent"]:.2f}%"></i>'
        f'<i class="span" style="left:{m["low"]:.2f}%;width:{max(m["high"] - m["low"], 0.3):.2f}%"></i>{mark}</div>'
    )
    cells = [
        ("", escape(m["label"]), "name"),
        ("", bar, "graph"),
        ("right", f"<b>{m['percent']:.1f} %</b> <small>{m['low']:.1f} to {m['high']:.1f}</small>", "value"),
        ("n", str(m["n"]), ""),
        ("chance", _chance(m), ""),
        ("asked", _asked(m), ""),
    ]
    if ceilings:
        cells += [
            (name, _ceiling(m.get(key)), "")
            for name, key in (("true pictures", "true_pictures"), ("VQ round trip", "round_trips"))
        ]
    return "<tr>" + "".join(f'<td data-name="{name}" class="{css}">{text}</td>' for name, text, css in cells) + "</tr>"


def _chance(m: Line) -> str:
    if m.get("chance") is None:
        return "–"
    times = f" <small>{m['times_chance']:.0f}×</small>" if m.get("times_chance") is not None else ""
    return f"{m['chance']:.2g} %{times}"


def _asked(m: Line) -> str:
    asked = m.get("asked")
    if not asked:
        return "–"
    text = f"{asked['percent']:g} %" if "percent" in asked else f"{asked['times_chance']:g}× chance"
    return f'{text} <span class="chip {"yes" if m["reached"] else "no"}">{"reached" if m["reached"] else "not reached"}</span>'


def _ceiling(found: Line | None) -> str:
    return f"{found['percent']:.1f} %" if found else "–"


def _text_line(found: dict[str, Any]) -> str:
    text = found.get("text")
    if not text:
        return ""
    return (
        f"<p>Held-out dialogues: perplexity <b>{text['perplexity']:.2f}</b> a token over {text['tokens']} answer tokens "
        f"of {text['n']} dialogues.</p>"
    )


def pictures(evaluation: Evaluation) -> str:
    """What was drawn, with its prompt, the true picture of the same scene, and what the detector found right."""
    cards = []
    for line in evaluation.pictures[:MAX_PICTURES]:
        chips = "".join(_chip(name, right) for name, right in line.get("right", {}).items())
        cards.append(
            f'<figure class="drawn"><div>{picture(evaluation.folder / line["picture"], "drawn: " + line["prompt"])}'
            f"{picture(evaluation.folder / line['true_picture'], 'the true picture')}</div>"
            f"<figcaption>{escape(line['prompt'])}</figcaption><p>{chips}</p></figure>"
        )
    lead = (
        "Prompts of held-out scenes, the first ones, not the best ones. Left what was drawn; right the true picture of that "
        "scene, which the model never saw. The marks are the detector's."
    )
    return f'<section id="pictures"><h2>Pictures it drew</h2><p class="lead">{lead}</p><div class="pictures">{"".join(cards)}</div></section>'


def _chip(name: str, right: bool) -> str:
    css, mark, spoken = ("yes", "✓", "right") if right else ("no", "✗", "wrong")
    return f'<span class="chip {css}" title="{escape(name)}: {spoken}">{mark} {escape(name)}</span>'


def answers(evaluation: Evaluation) -> str:
    """Questions on held-out pictures, a few of each sort."""
    cards = []
    for line in _spread(evaluation.answers, "sort", MAX_ANSWERS):
        shown = picture(evaluation.folder / line["picture"], "the picture asked about") if line.get("picture") else ""
        wrong = "" if line["right"] else f"<small>expected: {escape(line['expected'])}</small>"
        cards.append(
            f'<figure class="answer">{shown}<figcaption><span class="asks">{escape(line["question"])}</span>'
            f'<span class="says">{escape(line["answer"]) or "(nothing)"} {_chip(line["sort"], line["right"])}</span>{wrong}'
            "</figcaption></figure>"
        )
    return f'<section id="answers"><h2>Answers it gave</h2><div class="answers">{"".join(cards)}</div></section>'


def _spread(lines: list[Line], key: str, number: int) -> list[Line]:
    """The first lines of each value of ``key``, in turn."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line[key], []).append(line)
    chosen: list[Line] = []
    for rank in range(number):
        chosen += [group[rank] for group in groups.values() if rank < len(group)]
    return chosen[:number]


# -------------------------------------------------------------------------------------------------------------- stages


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
    yield line_chart("Samples by kind, share of a step", realised, unit=" %", from_zero=True, note="dashed: asked")
    yield line_chart("Learning rate", [Series("", *run.series("learning_rate"), "plain")], from_zero=True, exact=True)
    steps, fill = run.series("fill")
    percent = [100 * value for value in fill]
    yield line_chart("Fill of the packed rows", [Series("", steps, percent, "plain")], unit=" %", top=100)
    yield line_chart("Tokens a second", [Series("", *run.series("tokens_per_s"), "plain")], from_zero=True)
    yield line_chart("Gradient norm before clipping", [Series("", *run.series("grad_norm"), "plain")], from_zero=True)


def _asked_shares(run: Run) -> dict[str, float]:
    ratio = run.config.get("ratio") or {}
    total = sum(ratio.values())
    return {kind: 100 * ratio[kind] / total for kind in KINDS if kind in ratio} if total else {}


def _realised(run: Run, kind: Kind) -> tuple[list[int], list[float]]:
    """Percent of each step's samples that are of ``kind``; nothing for a kind that the whole run has none of."""
    steps, shares = [], []
    for line in run.steps:
        counts = {k: line.get(f"samples/{k}", 0) for k in KINDS}
        if sum(counts.values()):
            steps.append(int(line["step"]))
            shares.append(100 * counts[kind] / sum(counts.values()))
    return (steps, shares) if any(shares) else ([], [])


def _mixture(run: Run) -> str:
    """Asked and realised ratio over the whole run."""
    asked = _asked_shares(run)
    counts = {kind: sum(run.series(f"samples/{kind}")[1]) for kind in KINDS}
    total = sum(counts.values())
    if not total or not asked:
        return ""
    ratio = run.config["ratio"]
    names = " : ".join(f'<span class="key {kind}">{kind}</span>' for kind in KINDS)
    realised = " / ".join(f"{100 * counts[kind] / total:.1f}" for kind in KINDS)
    return (
        f'<p class="mixture">{names} = {":".join(str(ratio[kind]) for kind in KINDS)} asked, that is '
        f"{' / '.join(f'{asked[kind]:.1f}' for kind in KINDS)} %; realised <b>{realised} %</b> of {total:,.0f} samples.</p>"
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


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text)."""
    if isinstance(value, dict):
        return [
            pair for key, inner in value.items() for pair in flatten(inner, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list):
        return [(prefix, ", ".join(str(item) for item in value))]
    return [(prefix, str(value))]
