"""DPG-Bench's prompts and questions, as published.

prompts/KEY.txt     a prompt a file
dpg_bench.csv       a question a row: item_id (the KEY), text (the prompt), proposition_id, dependency, tuple,
                    question_natural_language
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from janus_train.errors import UserError, one_line, shortened
from janus_train.files import read_text

PROMPTS_FOLDER, CSV_FILE = "prompts", "dpg_bench.csv"
NUM_PROMPTS = 1065
_COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
_MAX_FIELD = 1 << 20
_FILE_NAME = re.compile(r"\w[\w. -]*")
"""What an item_id must be: its images are in a file of this name."""


@dataclass(frozen=True)
class Question:
    """A yes-or-no question about an image."""

    number: int
    """``proposition_id``: what other questions name as their parent."""
    parents: tuple[int, ...]
    category: str
    """For example ``attribute - color``; before the hyphen stands one of five wide categories."""
    text: str

    @property
    def wide_category(self) -> str:
        return self.category.split("-")[0].strip()


@dataclass(frozen=True)
class DpgPrompt:
    """``questions`` are in the file's order; empty if there is no csv file."""

    key: str
    text: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class DpgData:
    """All prompts by key, in alphabetical order, the file of the questions if there is one, and what to tell about them."""

    prompts: dict[str, DpgPrompt]
    table: Path | None
    notes: tuple[str, ...]


def read_dpg(data: Path) -> DpgData:
    """Reads the folder of prompts, or else the csv file's, and the csv file's questions.

    Raises `UserError` if neither is there, or for a file that is not as published.
    """
    folder, table = data / PROMPTS_FOLDER, data / CSV_FILE
    texts = {}
    for path in sorted(folder.glob("*.txt")):
        texts[path.stem] = read_text(path).strip()
        if not texts[path.stem]:
            raise UserError(f"{path} is empty")
    rows, notes = _rows(table) if table.is_file() else ({}, [])
    if not texts and not rows:
        raise UserError(
            f"{data} has neither {PROMPTS_FOLDER}/*.txt nor {CSV_FILE}: both are in DPG-Bench's repository, put them there"
        )
    if texts and rows:
        notes += _differences(texts, rows)
    prompts = {
        key: DpgPrompt(key, texts.get(key) or rows[key][0], tuple(rows[key][1]) if key in rows else ())
        for key in sorted(texts or rows)
    }
    return DpgData(prompts, table if rows else None, tuple(notes))


def _differences(texts: dict[str, str], rows: dict[str, tuple[str, list[Question]]]) -> list[str]:
    """What the folder and the csv file do not have in common; the folder decides what is drawn."""
    notes = []
    without, unused = sorted(texts.keys() - rows.keys()), sorted(rows.keys() - texts.keys())
    if without:
        notes.append(f"{len(without)} prompts have no questions in {CSV_FILE}, for example {without[0]}")
    if unused:
        notes.append(f"{len(unused)} items of {CSV_FILE} have no file in {PROMPTS_FOLDER}, for example {unused[0]}")
    return notes


def _rows(path: Path) -> tuple[dict[str, tuple[str, list[Question]]], list[str]]:
    """The csv file's prompts and questions by key, and notes."""
    csv.field_size_limit(_MAX_FIELD)
    try:
        table = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise UserError(f"{path} is not a csv file ({one_line(error)})") from None
    missing = [name for name in _COLUMNS if not table or name not in table[0]]
    if missing:
        raise UserError(f"{path} has no column {missing[0]}: its columns are {', '.join(_COLUMNS)} and others")
    notes = []
    if not (table[0]["proposition_id"] or "").strip().isdecimal():
        notes.append(f"the first row of {CSV_FILE} is no question and was passed over")
        table = table[1:]
    items: dict[str, tuple[str, list[Question]]] = {}
    for number, row in enumerate(table, 2 + len(notes)):
        where = f"{path}: row {number}"
        if any(row[name] is None for name in _COLUMNS):
            raise UserError(f"{where} has too few fields")
        key, text = row["item_id"].strip(), row["text"].strip()
        if _FILE_NAME.fullmatch(key) is None or not text:
            raise UserError(f"{where}: {'it has no text' if not text else f'{shortened(key)} cannot name a file'}")
        _, questions = items.setdefault(key, (text, []))
        questions.append(_question(row, where))
    for key, (_, questions) in items.items():
        _check(questions, f"{path}: {key}")
    return items, notes


def _question(row: dict[str, str], where: str) -> Question:
    try:
        number = int(row["proposition_id"])
        parents = tuple(parent for parent in map(int, row["dependency"].split(",")) if parent != 0)  # 0: none
    except ValueError:
        values = shortened((row["proposition_id"], row["dependency"]))
        raise UserError(f"{where}: proposition_id and dependency are not numbers: {values}") from None
    category, text = row["tuple"].split("(")[0].strip(), row["question_natural_language"].strip()
    if not category or not text:
        raise UserError(f"{where} has no {'question_natural_language' if category else 'tuple'}")
    return Question(number, parents, category, text)


def _check(questions: list[Question], where: str) -> None:
    numbers = [question.number for question in questions]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{where}: two of its questions have one proposition_id")
    for question in questions:
        unknown = [parent for parent in question.parents if parent not in numbers]
        if unknown:
            raise UserError(
                f"{where}: question {question.number} depends on {unknown[0]}, which the item does not have"
            )
