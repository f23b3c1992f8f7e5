"""The page that holds a report's sections."""

from __future__ import annotations

from html import escape
from typing import Any

from janus_train.report import results, stages
from janus_train.report.html import duration
from janus_train.report.read import Source
from janus_train.report.style import STYLE


def page(source: Source) -> str:
    """The whole HTML document: its style inside, its pictures as data, no script, nothing fetched."""
    runs, evaluation = source.runs, source.evaluation
    blocks: list[tuple[str, str]] = []
    if evaluation:
        blocks.append(("Results", results.results(evaluation)))
        if evaluation.pictures:
            blocks.append(("Pictures", results.pictures(evaluation)))
        if evaluation.answers:
            blocks.append(("Answers", results.answers(evaluation)))
    if runs:
        blocks.append(("Parts", stages.parts_table(runs)))
        blocks += [(stages.title_of(run), stages.stage(run)) for run in runs]
        blocks.append(("Setting", stages.setting(runs)))
    anchors = [_anchor(block) for _, block in blocks]
    menu = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for (name, _), anchor in zip(blocks, anchors, strict=True))
    name = _name(source)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<style>{STYLE}</style></head><body><header><h1>{escape(name)}</h1><p>{escape(_summary(source))}</p>"
        f"<nav>{menu}</nav></header><main>{''.join(block for _, block in blocks)}</main>"
        "<footer>Written by <code>janus-train report</code>.</footer></body></html>\n"
    )


def _anchor(block: str) -> str:
    return block.split('id="', 1)[1].split('"', 1)[0]


def _name(source: Source) -> str:
    if not source.runs:
        return "Evaluation"
    model = (source.runs[-1].config.get("model") or {}).get("name", "Janus")
    stages = [str(run.config.get("stage", run.name)) for run in source.runs]
    return f"{model}: stage {stages[0]}" if len(stages) == 1 else f"{model}: stages {', '.join(stages)}"


def _summary(source: Source) -> str:
    """One line: how much, how long, on what, from which commit."""
    facts = []
    if source.runs:
        last = source.runs[-1].manifest
        parameters = sum(part["parameters"] for part in (last.get("parts") or {}).values())
        facts += [f"{parameters / 1e6:.1f} M parameters"] if parameters else []
        facts.append(f"trained for {duration(sum(run.seconds for run in source.runs))}")
        hardware = last.get("hardware") or {}
        facts += [f"on {_machine(hardware)}"] if hardware else []
        facts += [f"commit {last['commit'][:10]}"] if last.get("commit") else []
    if source.evaluation and "seconds" in source.evaluation.results:
        facts.append(f"evaluated in {duration(source.evaluation.results['seconds'])}")
    return " · ".join(facts)


def _machine(hardware: dict[str, Any]) -> str:
    gpus = hardware.get("gpus") or []
    return f"{len(gpus)} x {gpus[0]}" if gpus else f"{hardware.get('cpus', '?')} CPU cores"
