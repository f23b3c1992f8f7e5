"""Writes the results as a page: a table per question, and under it whether the seeds' spread explains the difference.

What stands between a question's two marks is written by hand, and kept when the page is written again.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.ablations.plan import evaluation_folder
from janus_train.errors import UserError
from janus_train.files import read_text, write_text
from janus_train.jsonl import read_json_lines

NUM_PROMPTS, NUM_QUESTIONS = 200, 400
PERPLEXITY = "perplexity of dialogues"

Line = Mapping[str, Any]
Column = tuple[str, int | None]
"""An arm, and the guidance of its evaluation; None: the demonstration's."""


@dataclass(frozen=True)
class Question:
    name: str
    title: str
    comparisons: tuple[tuple[Column, Column], ...]
    """What the papers do or did before, then what is compared with it."""
    paper: str
    """The first text of the place that is written by hand."""

    @property
    def columns(self) -> list[Column]:
        return list(dict.fromkeys(column for comparison in self.comparisons for column in comparison))


_PRO: Column = ("pro", None)
QUESTIONS = (
    Question(
        "ratio",
        "Stage 3 at understanding : text : generation 5:1:4 (`pro`) or 7:3:10, as in the first Janus",
        ((_PRO, ("stage3_7_3_10", None)),),
        "Janus-Pro takes a smaller share of generation, and reports better understanding with generation still strong.",
    ),
    Question(
        "stage1",
        "Stage 1 long (`pro`), a third as long, or a third as long with class images in two thirds of stage 2",
        ((_PRO, ("short_stage1", None)), (_PRO, ("imagenet_in_stage2", None))),
        "Janus-Pro trains stage 1 for longer and drops ImageNet from stage 2, where the first Janus took it for 120K of 180K "
        "steps; it reports that stage 2 on dense captions alone is then more efficient.",
    ),
    Question(
        "language_model",
        "The language model frozen in stage 1 (`pro`) or trained",
        ((_PRO, ("trained_llm_stage1", None)),),
        "Both papers freeze the language model in stage 1, without a comparison.",
    ),
    Question(
        "dropout",
        "Prompts dropped out for guidance (`pro`, 10 %) or never",
        ((_PRO, ("no_dropout", None)), (("pro", 1), ("no_dropout", 1))),
        "Janus drops the prompt of 10 % of the samples, to generate with guidance 5; Janus-Pro is silent.",
    ),
)


def write(
    path: Path, results: Path, page: Callable[[Sequence[Line], str], str], module: str = "benchmarks.ablations"
) -> None:
    """Write a ``page`` of results.jsonl over an earlier one. Raises `UserError` if ``module`` has written no results."""
    lines = read_json_lines(results)
    if not lines:
        raise UserError(f"{results} has no results: run python -m {module} first")
    write_text(path, page(lines, read_text(path) if path.is_file() else ""))
    print(path)


def page(lines: Sequence[Line], earlier_page: str = "") -> str:
    """The page in Markdown; texts by hand are taken from ``earlier_page``."""
    parts = ["# The papers' ablations in the small", *_head(lines)]
    for question in QUESTIONS:
        by_hand = text_by_hand(question.name, question.paper, earlier_page)
        parts += [f"## {question.title}", *_answer(question, lines), by_hand]
    return "\n\n".join(parts) + "\n"


def machine_and_commit(lines: Sequence[Line]) -> str:
    """Where the results come from, as two sentences."""
    machines = {
        f"{line['machine']}, {line['processor'] or 'processor unknown'}, {line['cpus']} cores, "
        f"{', '.join(line['gpus']) or 'no GPU'}; torch {line['torch']}"
        for line in lines
    }
    commits = sorted({(line["commit"] or "unknown")[:7] for line in lines})
    return f"Machine: {'; '.join(sorted(machines))}; one thread per run. Commit {', '.join(commits)}."


def _head(lines: Sequence[Line]) -> list[str]:
    first, seeds = lines[0], sorted({line["seed"] for line in lines})
    words = ["--seeds", *seeds, "--steps", *first["steps"]]
    words += [] if first["num_prompts"] == NUM_PROMPTS else ["--num-prompts", first["num_prompts"]]
    words += [] if first["num_questions"] == NUM_QUESTIONS else ["--num-questions", first["num_questions"]]
    command = " ".join(map(str, ["python -m benchmarks.ablations", *words, *first["overrides"]]))
    return [
        f"{machine_and_commit(lines)}\nCommand: `{command}`; with `--page` it writes this page from the results.",
        f"The demonstration's tiny model and embedded images. Held-out figures of `janus-train evaluate` on "
        f"{first['num_prompts']} prompts and {first['num_questions']} questions,\nin percent right: the mean ± standard "
        "deviation (n - 1) over the seeds, then the value of each seed. `answer` is about questions, the others\nabout "
        "generated images; at another guidance than the demonstration's only these are listed, because answers have none.",
        "A difference counts as larger than the seeds' spread if it is more than twice the standard deviation of both arms, "
        "pooled. With three\nseeds, chance alone makes about one in fourteen measures of equal arms differ by that much. "
        "Nothing here shows what larger models do.",
    ]


def _answer(question: Question, lines: Sequence[Line]) -> list[str]:
    """The table of the arms that were run, and a sentence per comparison."""
    values = {column: _values(lines, column) for column in question.columns}
    columns = [column for column in question.columns if values[column]]
    if not columns:
        return ["Not run."]
    names = list(dict.fromkeys(name for column in columns for name in values[column]))
    chances = {m["name"]: f"{m['chance']:.1f}" for line in lines for m in line["measures"]}
    rows = [
        ["measure", "chance", *(_title(column, question, lines) for column in columns)],
        ["---"] * (2 + len(columns)),
    ]
    for name in names:
        cells = [_cell(values[column].get(name, []), 2 if name == PERPLEXITY else 1) for column in columns]
        rows.append([name.replace("_", " "), chances.get(name, ""), *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    sentences = [
        _sentence(*(_title(column, question, lines) for column in pair), *(values[column] for column in pair))
        for pair in question.comparisons
        if all(values[column] for column in pair)
    ]
    return [table, *sentences]


def _values(lines: Sequence[Line], column: Column) -> dict[str, list[float]]:
    """Measure -> its values by seed, in the order of the results; empty if the arm was not run."""
    arm, guidance = column
    of_column = [line for line in lines if (line["arm"], line["evaluation"]) == (arm, evaluation_folder(guidance))]
    values: dict[str, list[float]] = {}
    for line in sorted(of_column, key=lambda line: line["seed"]):
        for measure in line["measures"]:
            if guidance is None or measure["group"] == "generation":
                values.setdefault(measure["name"], []).append(measure["percent"])
        if guidance is None:
            values.setdefault(PERPLEXITY, []).append(line["perplexity"])
    return values


def _title(column: Column, question: Question, lines: Sequence[Line]) -> str:
    """The arm, with the guidance where a question has several."""
    arm, guidance = column
    if len({guidance for _, guidance in question.columns}) == 1:
        return f"`{arm}`"
    folder = evaluation_folder(guidance)
    used = next(line["guidance"] for line in lines if (line["arm"], line["evaluation"]) == (arm, folder))
    return f"`{arm}`, guidance {used:g}"


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation} ({', '.join(f'{value:.{digits}f}' for value in values)})"


def _sentence(
    title: str, other_title: str, values: Mapping[str, Sequence[float]], other_values: Mapping[str, Sequence[float]]
) -> str:
    """In which measures the other arm differs from the first by more than the seeds' spread."""
    names = [name for name in values if name in other_values]
    if min(len(of_arm[name]) for of_arm in (values, other_values) for name in names) < 2:
        return f"{other_title} beside {title}: one seed shows no spread, so nothing can be said about the difference."
    higher, lower = [], []
    for name in names:
        difference = statistics.mean(other_values[name]) - statistics.mean(values[name])
        if abs(difference) > 2 * _pooled_deviation(values[name], other_values[name]):
            digits = 2 if name == PERPLEXITY else 1
            (higher if difference > 0 else lower).append(f"{name.replace('_', ' ')} ({difference:+.{digits}f})")
    if not higher and not lower:
        return f"{other_title} beside {title}: no measure differs by more than the seeds' spread."
    found = [f"{word} in {', '.join(of_word)}" for word, of_word in (("higher", higher), ("lower", lower)) if of_word]
    return (
        f"{other_title} beside {title}: by more than the seeds' spread {' and '.join(found)}; "
        f"{len(names) - len(higher) - len(lower)} of {len(names)} measures differ by less."
    )


def _pooled_deviation(values: Sequence[float], other_values: Sequence[float]) -> float:
    """The standard deviation around each arm's own mean."""
    weights = len(values) - 1, len(other_values) - 1
    variances = statistics.variance(values), statistics.variance(other_values)
    return (sum(w * v for w, v in zip(weights, variances, strict=True)) / sum(weights)) ** 0.5


def text_by_hand(name: str, first_text: str, earlier_page: str) -> str:
    """The place of a text by hand with its marks: what stands there in ``earlier_page``, else ``first_text``."""
    begin, end = (f"<!-- {word} of what is written by hand: {name} -->" for word in ("begin", "end"))
    found = re.search(f"{re.escape(begin)}\n(.*?)\n?{re.escape(end)}", earlier_page, re.DOTALL)
    return f"{begin}\n{found[1] if found else first_text}\n{end}"
