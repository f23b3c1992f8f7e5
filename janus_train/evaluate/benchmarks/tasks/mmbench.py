"""MMBench, English development set: multiple choice, vanilla as in the papers, or circular.

Circular: a question counts only if it is right in every rotation of its options, which a guess rarely is. The published
file has the rotations as rows of their own, whose ``index`` is a multiple of a million higher; they are made if it has none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.choices import choice_prompt, expected_letter, letter_of, options_of
from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.questions import Question, QuestionTask
from janus_train.evaluate.benchmarks.registry import register_task
from janus_train.evaluate.benchmarks.result import PRO_TABLE, Published, Result, shares_by
from janus_train.evaluate.benchmarks.tables import Row
from janus_train.jsonl import Line

ROTATION = 1_000_000
"""Rotation k of question i is row ``k * ROTATION + i``."""


class MMBench(QuestionTask):
    """Each question once, as it stands."""

    name = "mmbench"
    title = "MMBench dev (en)"
    files = ("MMBench_DEV_EN.tsv", "mmbench/*.tsv", "mmbench/*.parquet", "mmbench/en/dev*.parquet")
    published = Published(69.4, 75.5, 79.2, PRO_TABLE)

    def uses(self, row: Row) -> bool:
        return _index(row) < ROTATION

    def questions(self, rows: Sequence[Row], protocol: Protocol) -> list[Question]:
        return [self._question(row, options_of(row), 0, protocol) for row in rows]

    def _question(self, row: Row, options: Mapping[str, str], rotation: int, protocol: Protocol) -> Question:
        """The row's question with ``options``; ``rotation``: how far they were moved from the row's own letters."""
        letters = list(options)
        place = (letters.index(expected_letter(row, options)) + rotation) % len(letters)
        facts = {"category": row.get("category"), "options": options, "expected": letters[place]}
        key = str(_index(row) + rotation * ROTATION)
        return Question(key, choice_prompt(self.name, row, options, protocol), row.images, facts, row.where)

    def score(self, lines: Sequence[Line], folder: Path) -> Result:
        scores = shares_by("accuracy", [(line["category"], _is_right(line)) for line in lines])
        return Result(tuple(scores), scores[0], _num_unparsed(lines))


class CircularMMBench(MMBench):
    """Each question in all rotations of its options."""

    name = "mmbench_circular"
    title = "MMBench dev (en), circular"
    published = Published(None, None, None, PRO_TABLE)

    def uses(self, row: Row) -> bool:
        return True

    def questions(self, rows: Sequence[Row], protocol: Protocol) -> list[Question]:
        by_question: dict[int, list[Row]] = defaultdict(list)
        for row in rows:
            by_question[_index(row) % ROTATION].append(row)
        for group in by_question.values():
            group.sort(key=_index)
        return [question for group in by_question.values() for question in self._rotations(group, protocol)]

    def _rotations(self, rows: Sequence[Row], protocol: Protocol) -> Iterator[Question]:
        """All rotations of one question: the file's, or made from its one row."""
        options = options_of(rows[0])
        if len(rows) not in (1, len(options)):
            raise UserError(f"{rows[0].where}: {len(rows)} rotations are there, {len(options)} options need as many")
        if len(rows) > 1:
            for row in rows:
                yield self._question(row, options_of(row), 0, protocol)
            return
        texts = list(options.values())
        for rotation in range(len(texts)):
            moved = texts[len(texts) - rotation :] + texts[: len(texts) - rotation]
            yield self._question(rows[0], dict(zip(options, moved, strict=True)), rotation, protocol)

    def score(self, lines: Sequence[Line], folder: Path) -> Result:
        by_question: dict[int, list[Line]] = defaultdict(list)
        for line in lines:
            by_question[int(line["key"]) % ROTATION].append(line)
        groups = [sorted(group, key=lambda line: int(line["key"])) for group in by_question.values()]
        circular = shares_by(
            "circular accuracy", [(group[0]["category"], all(map(_is_right, group))) for group in groups]
        )
        vanilla = shares_by("vanilla accuracy", [(group[0]["category"], _is_right(group[0])) for group in groups])
        return Result((*circular, *vanilla), circular[0], _num_unparsed(lines))


def _index(row: Row) -> int:
    text = row.get("index")
    if not text.isdecimal():
        raise UserError(f"{row.where}: the index is {text!r}, a whole number was expected")
    return int(text)


def _is_right(line: Line) -> bool:
    return letter_of(line["answer"], line["options"]) == line["expected"]


def _num_unparsed(lines: Sequence[Line]) -> int:
    return sum(letter_of(line["answer"], line["options"]) is None for line in lines)


register_task(MMBench())
register_task(CircularMMBench())
