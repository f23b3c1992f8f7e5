"""GQA, balanced test-dev set: short answers, right if they equal the expected one without case and punctuation."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.questions import Question, QuestionTask
from janus_train.evaluate.benchmarks.registry import register_task
from janus_train.evaluate.benchmarks.result import PRO_TABLE, Published, Result, shares_by
from janus_train.evaluate.benchmarks.tables import Row
from janus_train.jsonl import Line

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Gqa(QuestionTask):
    name = "gqa"
    title = "GQA test-dev"
    files = ("GQA_TestDev_Balanced.tsv", "gqa/*.tsv", "gqa/*.parquet", "gqa/testdev_balanced_*/*.parquet")
    published = Published(59.1, 59.3, 62.0, PRO_TABLE)

    def questions(self, rows: Sequence[Row], protocol: Protocol) -> list[Question]:
        return [
            Question(
                row.get("index", "id"),
                protocol.prompt(self.name, "short_answer", row.get("question")),
                row.images,
                {"category": row.values.get("category", ""), "expected": row.get("answer")},
                row.where,
            )
            for row in rows
        ]

    def score(self, lines: Sequence[Line], folder: Path) -> Result:
        judgements = [(line["category"], normalise(line["answer"]) == normalise(line["expected"])) for line in lines]
        scores = shares_by("accuracy", judgements)
        return Result(tuple(scores), scores[0], sum(not normalise(line["answer"]) for line in lines))


def normalise(text: str) -> str:
    """The text in lower case, without punctuation and with single spaces."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


register_task(Gqa())
