"""MMMU, validation set: university questions in 30 subjects, with up to seven images, by letter or as an open answer.

Answers are read as the authors' evaluation reads them (`read_letter`, `open_answers`), with one difference: where it takes
a random letter because it finds none, the answer is wrong here.
"""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.choices import choice_prompt, expected_letter, options_of
from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.questions import Question, QuestionTask
from janus_train.evaluate.benchmarks.registry import register_task
from janus_train.evaluate.benchmarks.result import PRO_TABLE, Published, Result, shares_by
from janus_train.evaluate.benchmarks.tables import Row
from janus_train.jsonl import Line

_NAME = re.compile(r"(?P<split>[a-z]+)_(?P<subject>.+)_\d+")
"""The hub's ids: ``validation_Accounting_1``."""
_MIN_WORDS_OF_TEXT = 6
"""In an answer of fewer words the texts of the options are not looked for."""


class Mmmu(QuestionTask):
    name = "mmmu"
    title = "MMMU validation"
    files = ("MMMU_DEV_VAL.tsv", "mmmu/*.tsv", "mmmu/validation*.parquet", "mmmu/*/validation*.parquet")
    published = Published(30.5, 36.3, 41.0, PRO_TABLE)

    def uses(self, row: Row) -> bool:
        name = _NAME.fullmatch(row.values.get("id", ""))
        split = row.values.get("split") or (name["split"] if name else "validation")
        return split == "validation"

    def questions(self, rows: Sequence[Row], protocol: Protocol) -> list[Question]:
        return [self._question(_with_columns(row), protocol) for row in rows]

    def _question(self, row: Row, protocol: Protocol) -> Question:
        name = _NAME.fullmatch(row.values.get("id", ""))
        facts = {"category": row.values.get("category") or (name["subject"] if name else "")}
        if "A" in row.values:
            options = options_of(row)
            text = choice_prompt(self.name, row, options, protocol)
            facts |= {"options": options, "expected": expected_letter(row, options)}
        else:
            text = protocol.prompt(self.name, "open", row.get("question"))
            facts |= {"expected": _listed(row.get("answer"))}
        return Question(row.get("id", "index"), text, row.images, facts, row.where)

    def score(self, lines: Sequence[Line], folder: Path) -> Result:
        judgements, num_unparsed = [], 0
        for line in lines:
            if "options" in line:
                letter = read_letter(line["answer"], line["options"])
                num_unparsed += letter is None
                judgements.append((line["category"], letter == line["expected"]))
            else:
                num_unparsed += not line["answer"].strip()
                judgements.append((line["category"], is_open_answer(line["answer"], line["expected"])))
        scores = shares_by("accuracy", judgements)
        return Result(tuple(scores), scores[0], num_unparsed)


def _with_columns(row: Row) -> Row:
    """The row with its options in columns A, B ..., which the hub's have in one list."""
    options = row.values.get("options", "")
    if not options:
        return row
    try:
        texts = ast.literal_eval(options)
        if not isinstance(texts, list) or len(texts) > len(string.ascii_uppercase):
            raise ValueError(options)
    except (ValueError, SyntaxError):
        raise UserError(f"{row.where}: the options {options[:80]!r} are not a list") from None
    columns = {letter: str(text) for letter, text in zip(string.ascii_uppercase, texts, strict=False)}
    return Row({**row.values, **columns}, row.images, row.where)


def _listed(answer: str) -> list[str]:
    """The right answers of an open question, of which the hub writes several as a list."""
    if answer.startswith("["):
        try:
            return [str(each) for each in ast.literal_eval(answer)]
        except (ValueError, SyntaxError):
            pass  # an answer such as an interval
    return [answer]


# ------------------------------------------------------------------------------------------------------------ letters


def read_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter that stands last: in brackets, else between spaces, else as the text of its option in a longer answer."""
    for mark in ",.!?;:'":
        answer = answer.strip(mark)
    answer = f" {answer} "
    for form in ("({})", " {} "):
        places = {letter: answer.rfind(form.format(letter)) for letter in options}
        if max(places.values()) >= 0:
            return max(places, key=places.__getitem__)
    if len(answer.split()) < _MIN_WORDS_OF_TEXT:
        return None
    places = {letter: answer.lower().rfind(text.lower()) for letter, text in options.items()}
    return max(places, key=places.__getitem__) if max(places.values()) >= 0 else None


# ------------------------------------------------------------------------------------------------------- open answers

_BEFORE_ANSWERS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,234
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.2e-3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def is_open_answer(answer: str, expected: Sequence[str]) -> bool:
    """Whether one of the expected texts stands in what the answer says, or one of the expected numbers is in it."""
    right = {value for text in expected for value in _normalised(text)}
    given = open_answers(answer)
    right_texts = [value for value in right if isinstance(value, str)]
    return any(
        value in right if isinstance(value, float) else any(text in value for text in right_texts) for value in given
    )


def open_answers(answer: str) -> set[str | float]:
    """What an answer says: the ends of its lines behind words such as "is", or all of it, and the numbers in them.

    Text is in lower case; numbers are rounded to two places.
    """
    text = answer.strip().strip(".").lower()
    lines = text.split("\n")
    ends = [_shortest_end(line, is_last=number == len(lines)) for number, line in enumerate(lines, 1)]
    said = [end for end in ends if end and end not in set(":,.!?;'")] or [text]
    said += [number for end in list(said) for pattern in _NUMBERS for number in pattern.findall(end)]
    return {value for each in said for value in _normalised(each)}


def _shortest_end(line: str, is_last: bool) -> str:
    """The shortest of what follows the words before answers; an equals sign is one in the last line."""
    marks = (*_BEFORE_ANSWERS, "=") if is_last else _BEFORE_ANSWERS
    ends = [line.rsplit(mark, 1)[1].strip() for mark in marks if mark in line]
    return min((end for end in ends if end), key=len, default="")


def _normalised(text: str) -> list[str | float]:
    """A number rounded to two places, or the text in lower case; of a single letter only with a space beside it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


register_task(Mmmu())
