"""Writes the results as a page: a table of the new objects, one of the old ones; in both an arm per line.

What stands between two marks is written by hand, and kept when the page is written again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.ablations.page import machine_and_commit, text_by_hand
from benchmarks.fine_tuning.plan import ARMS, START
from benchmarks.fine_tuning.recipes import MIXTURES, NEW_OBJECTS, NUM_OWN
from janus_train.evaluate.measures import interval

FINE_TUNING_STEPS, NUM_PROMPTS, NUM_QUESTIONS = 150, 80, 200

Line = Mapping[str, Any]
Counts = dict[str, tuple[int, int]]
"""Measure -> right, asked; of all seeds together."""

DRAWN = ("background", "count", "place", "object", "all")
ANSWERS = ("answer_colour", "answer_count", "answer_place", "answer_object", "answer_relation")
TABLES = {
    "new": ("New objects", "Scenes of the five new objects alone, none of which is among the own images."),
    "old": ("Old objects", "Held-out scenes of the other 35 objects, as `make demo` measures them."),
}
"""Evaluation -> title of its table, what is measured."""


def page(lines: Sequence[Line], earlier_page: str = "") -> str:
    """The page in Markdown; texts by hand are taken from ``earlier_page``."""
    parts = ["# Fine-tuning on new objects, and what it costs", *_head(lines)]
    parts.append(text_by_hand("result", "Not yet written.", earlier_page))
    for objects, (title, scenes) in TABLES.items():
        parts += [f"## {title}", scenes, *_tables(lines, f"evaluation_{objects}")]
        parts.append(text_by_hand(objects, "Not yet written.", earlier_page))
    return "\n\n".join(parts) + "\n"


def _head(lines: Sequence[Line]) -> list[str]:
    first, seeds = lines[0], sorted({line["seed"] for line in lines if line["arm"] != START})
    arms = [name for name in ARMS if any(line["arm"] == name for line in lines)]
    words: list[Any] = [] if len(arms) == len(ARMS) else ["--arms", *arms]
    words += [] if seeds in ([], [0]) else ["--seeds", *seeds]
    words += ["--model", "FOLDER"] if first["model"] else ["--steps", *first["steps"]]
    defaults = {"fine_tuning_steps": FINE_TUNING_STEPS, "num_prompts": NUM_PROMPTS, "num_questions": NUM_QUESTIONS}
    for key, default in defaults.items():
        words += [] if first[key] == default else [f"--{key.replace('_', '-')}", first[key]]
    command = " ".join(map(str, ["python -m benchmarks.fine_tuning", *words, *first["overrides"]]))
    shares = ", ".join(
        f"`{name}` {100 * mixture.replay:.0f} %" + f" (of only {mixture.num_old} images each)" * bool(mixture.num_old)
        for name, mixture in MIXTURES.items()
    )
    start = (
        "a given model"
        if first["model"]
        else f"the demonstration's stages ({', '.join(map(str, first['steps']))} steps)"
    )
    return [
        f"{machine_and_commit(lines)}\nCommand: `{command}`; with `--page` it writes this page from the results.",
        f"Start: {start}, trained without {', '.join(NEW_OBJECTS)}. Own data: {NUM_OWN} images with captions and {NUM_OWN} "
        f"with\nquestions, of these objects alone. An arm is `METHOD-MIXTURE-RATE`, with the settings of stage 3 (cosine to 0) "
        f"for {first['fine_tuning_steps']} steps,\n`-x2` for twice as many. `full` trains the parts of stage 3, `lora` adapters "
        f"of rank 16 in the language model alone, `lora_head` also the generation adaptor and the image head. Share of old\ndata among the samples about images: {shares}.",
        f"Percent right on {first['num_prompts']} prompts and {first['num_questions']} questions about old objects, half as "
        f"many about new ones, with Wilson's 95 % interval{' over all seeds together' * (len(seeds) > 1)}.\nIn bold: worse "
        "than before the fine-tuning, intervals apart.",
    ]


def _tables(lines: Sequence[Line], evaluation: str) -> list[str]:
    """Two tables, of images and of answers."""
    by_arm = {arm: _counts(lines, arm, evaluation) for arm in (START, *ARMS)}
    by_arm = {arm: counts for arm, counts in by_arm.items() if counts}
    if not by_arm:
        return ["Not run."]
    perplexities = {arm: _perplexity(lines, arm, evaluation) for arm in by_arm}
    tables = []
    for title, names in (("drawn", DRAWN), ("answers", ANSWERS)):
        has_perplexity = title == "answers" and evaluation == "evaluation_old"
        columns = [name.removeprefix("answer_") for name in names] + ["perplexity of dialogues"] * has_perplexity
        rows = [[title, *columns], ["---"] * (1 + len(columns))]
        for arm, counts in by_arm.items():
            cells = [_cell(counts[name], by_arm.get(START, {}).get(name)) for name in names]
            rows.append([f"`{arm}`", *cells, *([perplexities[arm]] * has_perplexity)])
        if title == "drawn":
            rows.append(["*true images, through the VQ tokenizer*", *_ceilings(lines, evaluation)])
        tables.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return tables


def _of_arm(lines: Sequence[Line], arm: str, evaluation: str) -> list[Line]:
    return [line for line in lines if (line["arm"], line["evaluation"]) == (arm, evaluation)]


def _counts(lines: Sequence[Line], arm: str, evaluation: str) -> Counts:
    counts: Counts = {}
    for line in _of_arm(lines, arm, evaluation):
        for measure in line["measures"]:
            right, n = counts.get(measure["name"], (0, 0))
            counts[measure["name"]] = right + measure["right"], n + measure["n"]
    return counts


def _perplexity(lines: Sequence[Line], arm: str, evaluation: str) -> str:
    return ", ".join(f"{line['perplexity']:.2f}" for line in _of_arm(lines, arm, evaluation))


def _ceilings(lines: Sequence[Line], evaluation: str) -> list[str]:
    """How often the true images are judged right after the VQ tokenizer's round trip: no image is drawn clearer."""
    measures = next(line["measures"] for line in lines if line["evaluation"] == evaluation)
    shares = {measure["name"]: measure["round_trips"]["percent"] for measure in measures if "round_trips" in measure}
    return [f"*{shares[name]:.0f}*" for name in DRAWN]


def _cell(counts: tuple[int, int], before: tuple[int, int] | None) -> str:
    right, n = counts
    if n == 0:
        return ""
    low, high = interval(right, n)
    is_worse = before is not None and before[1] > 0 and high < interval(*before)[0]
    percent = f"{100 * right / n:.0f}"
    return f"{f'**{percent}**' if is_worse else percent} ({low:.0f} to {high:.0f})"
