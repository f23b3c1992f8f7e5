"""The sections of an evaluation: its measures, pictures and answers."""

from __future__ import annotations

from html import escape
from typing import Any

from janus_train.report.html import chip, picture
from janus_train.report.read import Evaluation, Line

MAX_PICTURES, MAX_ANSWERS = 24, 12
"""How many are shown: a page of a few MB at most."""


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
        f"<p>Dialogues about the same objects in other words than training drew: perplexity <b>{text['perplexity']:.2f}</b> a token over {text['tokens']} answer tokens "
        f"of {text['n']} dialogues.</p>"
    )


def pictures(evaluation: Evaluation) -> str:
    """What was drawn, with its prompt, the true picture of the same scene, and what the detector found right."""
    cards = []
    for line in evaluation.pictures[:MAX_PICTURES]:
        chips = "".join(chip(name, right) for name, right in line.get("right", {}).items())
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


def answers(evaluation: Evaluation) -> str:
    """Questions on held-out pictures, a few of each sort."""
    cards = []
    for line in _spread(evaluation.answers, "sort", MAX_ANSWERS):
        shown = picture(evaluation.folder / line["picture"], "the picture asked about") if line.get("picture") else ""
        wrong = "" if line["right"] else f"<small>expected: {escape(line['expected'])}</small>"
        cards.append(
            f'<figure class="answer">{shown}<figcaption><span class="asks">{escape(line["question"])}</span>'
            f'<span class="says">{escape(line["answer"]) or "(nothing)"} {chip(line["sort"], line["right"])}</span>{wrong}'
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
