"""MM-Vet: open questions that a judge model scores elsewhere; this writes the answers as its evaluator takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.questions import Question, QuestionTask
from janus_train.evaluate.benchmarks.registry import register_task
from janus_train.evaluate.benchmarks.result import PRO_TABLE, Published, Result
from janus_train.evaluate.benchmarks.tables import Row
from janus_train.files import write_json
from janus_train.jsonl import Line

SUBMISSION = "mm-vet.json"
PREFIX = "v1_"
"""Of the official names of questions: ``v1_0`` is the first."""


class MMVet(QuestionTask):
    name = "mmvet"
    title = "MM-Vet"
    files = ("MMVet.tsv", "mmvet/*.tsv", "mmvet/*.parquet", "mmvet/data/test*.parquet")
    published = Published(34.3, 39.8, 50.0, PRO_TABLE)

    def questions(self, rows: Sequence[Row], protocol: Protocol) -> list[Question]:
        questions = []
        for row in rows:
            name = row.get("question_id", "index")
            key = name if name.startswith(PREFIX) else PREFIX + name
            facts = {"category": row.values.get("category") or row.values.get("capability", "")}
            text = protocol.prompt(self.name, "free", row.get("question"))
            questions.append(Question(key, text, row.images, facts, row.where))
        return questions

    def score(self, lines: Sequence[Line], folder: Path) -> Result:
        write_json(folder / SUBMISSION, {line["key"]: line["answer"] for line in lines})
        note = f"MM-Vet: give {folder / SUBMISSION} to the official evaluator, whose judge's version changes the score."
        return Result((), None, sum(not line["answer"] for line in lines), note)


register_task(MMVet())
