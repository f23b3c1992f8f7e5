"""MME: two questions about each image, one to be answered yes and one no.

A category's score is the percentage of right answers (accuracy) and that of images with both right (accuracy+), added: 200
at most. Perception is the sum over ten categories, cognition over four.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.questions import Question, QuestionTask
from janus_train.evaluate.benchmarks.registry import register_task
from janus_train.evaluate.benchmarks.result import PRO_TABLE, Published, Result, Score, share_of
from janus_train.evaluate.benchmarks.tables import Row
from janus_train.evaluate.benchmarks.yes_no import yes_or_no
from janus_train.jsonl import Line

CATEGORIES = {
    "perception": (
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
        "OCR",
    ),
    "cognition": ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}
QUESTIONS_PER_IMAGE = 2


class Mme(QuestionTask):
    name = "mme"
    title = "MME"
    files = ("MME.tsv", "mme/*.tsv", "mme/*.parquet", "mme/data/test*.parquet")
    published = Published(1338.0, 1444.0, 1567.1, PRO_TABLE)

    def questions(self, rows: Sequence[Row], protocol: Protocol) -> list[Question]:
        known = {name for names in CATEGORIES.values() for name in names}
        of_image: dict[tuple[str, str], list[Row]] = defaultdict(list)
        questions = []
        for row in rows:
            category, expected = row.get("category"), row.get("answer").strip().lower()
            if category not in known:
                raise UserError(f"{row.where}: {category!r} is no category of MME")
            if expected not in ("yes", "no"):
                raise UserError(f"{row.where}: the answer is {expected!r}, yes or no was expected")
            image = row.values.get("image_path") or row.values.get("question_id") or str(row.images[0].place)
            of_image[category, image].append(row)
            key = f"{category}/{image}/{len(of_image[category, image])}"
            facts = {"category": category, "image": image, "expected": expected}
            text = protocol.prompt(self.name, "yes_no", row.get("question"))
            questions.append(Question(key, text, row.images, facts, row.where))
        for (category, image), group in of_image.items():
            if len(group) != QUESTIONS_PER_IMAGE:
                raise UserError(f"{group[0].where}: {category}/{image} has {len(group)} questions, two were expected")
        return questions

    def score(self, lines: Sequence[Line], folder: Path) -> Result:
        right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        for line in lines:
            right[line["category"]][line["image"]].append(yes_or_no(line["answer"]) == line["expected"])
        points: dict[str, float] = {}
        scores: list[Score] = []
        for category in (name for names in CATEGORIES.values() for name in names if name in right):
            images = right[category].values()
            judgements = [judgement for image in images for judgement in image]
            pairs = [all(image) for image in images if len(image) == QUESTIONS_PER_IMAGE]
            accuracy = share_of("accuracy", sum(judgements), len(judgements), category)
            accuracy_plus = share_of("accuracy+", sum(pairs), len(pairs), category)
            points[category] = accuracy.value + accuracy_plus.value
            scores += [accuracy, accuracy_plus, Score("score", points[category], category, len(judgements))]
        totals = {
            name: Score(name, sum(points[category] for category in names), n=len(lines))
            for name, names in CATEGORIES.items()
            if all(category in points for category in names)
        }
        missing = [name for name in CATEGORIES if name not in totals]
        note = f"MME: no sum of {' and '.join(missing)}, because categories are missing." if missing else ""
        num_unparsed = sum(yes_or_no(line["answer"]) is None for line in lines)
        return Result((*totals.values(), *scores), totals.get("perception"), num_unparsed, note)


register_task(Mme())
