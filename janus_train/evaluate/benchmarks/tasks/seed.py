"""SEED-Bench, the part about images: multiple choice in nine categories. Rows about videos are left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from janus_train.evaluate.benchmarks.choices import choice_prompt, expected_letter, letter_of, options_of
from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.questions import Question, QuestionTask
from janus_train.evaluate.benchmarks.registry import register_task
from janus_train.evaluate.benchmarks.result import PRO_TABLE, Published, Result, shares_by
from janus_train.evaluate.benchmarks.tables import Row
from janus_train.jsonl import Line


class Seed(QuestionTask):
    name = "seed"
    title = "SEED-Bench, images"
    files = ("SEEDBench_IMG.tsv", "seed/*.tsv", "seed/*.parquet", "seed/data/test*.parquet")
    published = Published(63.7, 68.3, 72.1, PRO_TABLE)

    def uses(self, row: Row) -> bool:
        return row.values.get("data_type", "image") == "image"

    def questions(self, rows: Sequence[Row], protocol: Protocol) -> list[Question]:
        questions = []
        for row in rows:
            options = options_of(row)
            facts = {
                "category": row.get("category", "question_type_id"),
                "options": options,
                "expected": expected_letter(row, options),
            }
            text = choice_prompt(self.name, row, options, protocol)
            questions.append(Question(row.get("index", "question_id"), text, row.images, facts, row.where))
        return questions

    def score(self, lines: Sequence[Line], folder: Path) -> Result:
        letters = [letter_of(line["answer"], line["options"]) for line in lines]
        judgements = [
            (line["category"], letter == line["expected"]) for line, letter in zip(lines, letters, strict=True)
        ]
        scores = shares_by("accuracy", judgements)
        return Result(tuple(scores), scores[0], letters.count(None))


register_task(Seed())
