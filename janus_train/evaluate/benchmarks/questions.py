"""What all benchmarks of understanding share: questions about images, asked in batches under a protocol."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from janus_train.data.special_tokens import PLACEHOLDER
from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.registry import Context, OpenTask
from janus_train.evaluate.benchmarks.result import Published, Result
from janus_train.evaluate.benchmarks.tables import Cell, Row, find_files, read_rows
from janus_train.infer.chat import answer, open_turn
from janus_train.jsonl import Line

_IMAGE_MARK = re.compile(r"<image (\d+)>")
TOO_LONG = "too_long"
"""In the line of a question that is longer than the model's context and was not asked."""


@dataclass(frozen=True)
class Question:
    """One question and what its scoring needs."""

    key: str
    text: str
    """The words of the user's turn, without images."""
    images: tuple[Cell, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    """Copied into the answer's line, for example the category and the expected answer."""
    where: str = ""


class QuestionTask(ABC):
    """A benchmark of understanding: which files, which questions, which scores."""

    name: str
    title: str
    published: Published
    files: tuple[str, ...]
    """Where the data may stand in --data; the first pattern with files is taken."""

    def open(self, data: Path, protocol: Protocol) -> OpenTask:
        """Reads the questions. Raises `UserError` for missing or damaged data, and for two questions of one key."""
        files = find_files(data, self.name, self.files)
        rows = read_rows(files)
        used_rows = [row for row in rows if self.uses(row)]
        questions = self.questions(used_rows, protocol)
        if not questions:
            raise UserError(f"{files[0].parent}: there is no question of {self.name} in {files[0].name}")
        places: dict[str, str] = {}
        for question in questions:
            if question.key in places:
                raise UserError(f"{question.where}: {question.key!r} is also that of {places[question.key]}")
            places[question.key] = question.where
        return OpenQuestions(self, protocol, files, questions, len(rows) - len(used_rows))

    def uses(self, row: Row) -> bool:
        """Whether a row belongs to the part of the data that is asked; the others are counted."""
        return True

    @abstractmethod
    def questions(self, rows: Sequence[Row], protocol: Protocol) -> list[Question]:
        """Makes the questions of the rows, with unique keys."""

    @abstractmethod
    def score(self, lines: Sequence[Line], folder: Path) -> Result:
        """Scores lines with ``key``, the `Question.facts`, and the model's ``answer``."""


class OpenQuestions:
    """A `QuestionTask` whose questions are read."""

    def __init__(
        self,
        task: QuestionTask,
        protocol: Protocol,
        files: Sequence[Path],
        questions: Sequence[Question],
        num_left_out: int,
    ):
        self._task, self._protocol, self._questions, self._num_left_out = task, protocol, questions, num_left_out
        self.style = protocol.style(task.name)
        self._contents = [content(question, protocol) for question in questions]
        self.files = files
        self.keys: Sequence[str] = [question.key for question in questions]
        prompts = [vars(self.style), self.keys, [text for text, _ in self._contents]]
        self.prompts_digest = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()

    def answer(self, context: Context, numbers: Sequence[int]) -> list[Line]:
        """Answers in batches of equal room: an answer may be as long as the protocol says, or as the context has room."""
        lines = {}
        for room, group in self._by_room(context, numbers).items():
            answers = [""] * len(group) if room == 0 else self._ask(context, group, room)
            for number, text in zip(group, answers, strict=True):
                question = self._questions[number]
                lines[number] = {"key": question.key, **question.facts, "answer": text}
                if room == 0:
                    lines[number][TOO_LONG] = True
        return [lines[number] for number in numbers]

    def score(self, lines: Sequence[Line], folder: Path) -> Result:
        result = self._task.score(lines, folder)
        notes = [result.note] if result.note else []
        if self._num_left_out:
            notes.append(f"{self._task.title}: {self._num_left_out} rows of other parts were left out.")
        num_too_long = sum(TOO_LONG in line for line in lines)
        if num_too_long:
            notes.append(
                f"{self._task.title}: questions that do not fit the model's context and count as wrong: {num_too_long}."
            )
        return replace(result, note=" ".join(notes))

    def _by_room(self, context: Context, numbers: Sequence[int]) -> dict[int, list[int]]:
        """The questions by how many tokens their answers may have; 0 for those that do not fit the context at all."""
        janus, encoder = context.model.janus, context.model.encoder
        groups = defaultdict(list)
        for number in numbers:
            text, images = self._contents[number]
            try:
                ids = encoder.chat_prompt_ids(open_turn(_turn(text)), len(images), self.style)
            except UserError as error:
                raise UserError(f"{self._questions[number].where}: {error}") from None
            room = janus.config.text_config.max_position_embeddings - len(ids)
            groups[max(0, min(room, self._protocol.decoding.max_new_tokens))].append(number)
        return groups

    def _ask(self, context: Context, numbers: Sequence[int], max_new_tokens: int) -> list[str]:
        contents = [self._contents[number] for number in numbers]
        return answer(
            context.model.janus,
            context.model.encoder,
            [(_turn(text), [cell.read() for cell in images]) for text, images in contents],
            max_new_tokens,
            batch_size=context.batch_size,
            style=self.style,
            sampling=self._protocol.decoding.sampling(),
            seeds=[context.seed + number for number in numbers],
        )


def content(question: Question, protocol: Protocol) -> tuple[str, tuple[Cell, ...]]:
    """The words of the user's turn with placeholders, and the images in the placeholders' order.

    In place, ``<image 2>`` becomes the second image as often as it stands there, and images that no mark names come first.
    """
    if protocol.images == "before":
        return PLACEHOLDER * len(question.images) + question.text, question.images
    named = [int(number) for number in _IMAGE_MARK.findall(question.text)]
    missing = next((number for number in named if not 1 <= number <= len(question.images)), None)
    if missing is not None:
        raise UserError(f"{question.where}: <image {missing}> is not there, it has {len(question.images)} images")
    unnamed = [number for number in range(1, len(question.images) + 1) if number not in named]
    text = PLACEHOLDER * len(unnamed) + _IMAGE_MARK.sub(PLACEHOLDER, question.text)
    return text, tuple(question.images[number - 1] for number in [*unnamed, *named])


def _turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
