"""Reads the answers of DPG-Bench's question answerer: the published script's ``..._detail.txt``, or JSON lines.

    FOLDER/KEY.png, (384, 0, 768, 384), is there a cat?, yes                 one line per image and question
    {"prompt": "KEY", "image": 1, "question": 3, "answer": "yes"}            image 0 to 3, question's proposition_id

The four images of a prompt stand in a grid; the four numbers are the box of one of them: left, top, right, bottom.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from janus_train.errors import UserError, shortened
from janus_train.evaluate.benchmarks.drawing.dpg_prompts import DpgPrompt
from janus_train.evaluate.benchmarks.drawing.json_lines import numbered_objects
from janus_train.files import read_text

SAMPLES = 4
"""Images of each prompt."""
_LINE = re.compile(r"(?P<path>.+?), \((?P<left>\d+), (?P<top>\d+), \d+, \d+\), (?P<rest>.+)")

ImageAnswers = dict[int, bool]
"""Whether the answer to each question, by its number, is yes."""


@dataclass(frozen=True)
class DpgAnswers:
    """The answers of complete prompts, by key and image, and the keys of prompts with some answers but not all."""

    complete: dict[str, dict[int, ImageAnswers]]
    incomplete: tuple[str, ...]


def read_answers(path: Path, prompts: Mapping[str, DpgPrompt]) -> DpgAnswers:
    """Reads either file; one that ends in .txt is the published script's.

    An image whose questions were not all answered makes its prompt incomplete. Raises `UserError` for a line that is not as
    above, that is about no prompt or question of ``prompts``, or that answers a question a second time.
    """
    answers: dict[str, dict[int, ImageAnswers]] = {}
    lines = _detail_lines(path, prompts) if path.suffix == ".txt" else _json_lines(path, prompts)
    for key, image, number, is_yes, where in lines:
        of_image = answers.setdefault(key, {}).setdefault(image, {})
        if number in of_image:
            raise UserError(f"{where}: question {number} about image {image} of {key} is answered twice")
        of_image[number] = is_yes
    complete = {
        key: images
        for key, images in answers.items()
        if all(len(of_image) == len(prompts[key].questions) for of_image in images.values())
    }
    return DpgAnswers(complete, tuple(sorted(answers.keys() - complete.keys())))


_Answer = tuple[str, int, int, bool, str]
"""Key, image, question's number, whether the answer is yes, and where it stands."""


def _json_lines(path: Path, prompts: Mapping[str, DpgPrompt]) -> list[_Answer]:
    answers = []
    for where, line in numbered_objects(path, "give the file with the answers"):
        key, image, number, answer = (line.get(name) for name in ("prompt", "image", "question", "answer"))
        _check_key(key, where, prompts)
        if type(image) is not int or not 0 <= image < SAMPLES:
            raise UserError(f"{where}: image is {shortened(image)}, not a number from 0 to {SAMPLES - 1}")
        if type(number) is not int or all(number != question.number for question in prompts[str(key)].questions):
            raise UserError(f"{where}: {key} has no question {shortened(number)}")
        if not isinstance(answer, str):
            raise UserError(f"{where}: answer is {shortened(answer)}, not a text")
        answers.append((str(key), image, number, answer == "yes", where))
    return answers


def _detail_lines(path: Path, prompts: Mapping[str, DpgPrompt]) -> list[_Answer]:
    """The script writes an image's answers in the order of its questions, which tells questions of the same words apart."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; give the _detail.txt that the scorer wrote") from None
    answers: list[_Answer] = []
    used: dict[tuple[str, int], set[int]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where, match = f"{path}: line {number}", _LINE.fullmatch(line.rstrip("\r"))
        if match is None:
            raise UserError(f"{where} is not IMAGE, (LEFT, TOP, RIGHT, BOTTOM), QUESTION, ANSWER")
        key = Path(match["path"]).name.split(".")[0]
        _check_key(key, where, prompts)
        image = int(int(match["left"]) > 0) + 2 * int(int(match["top"]) > 0)
        before = used.setdefault((key, image), set())
        asked = [each for each in prompts[key].questions if match["rest"].startswith(f"{each.text}, ")]
        # a question may begin like another: the longest is meant
        asked = [each for each in asked if len(each.text) == max(len(other.text) for other in asked)]
        if not asked:
            raise UserError(f"{where}: {key} has no such question")
        question = next((each for each in asked if each.number not in before), asked[-1])
        before.add(question.number)
        answer = match["rest"][len(question.text) + 2 :].strip()
        answers.append((key, image, question.number, answer == "yes", where))
    if not answers:
        raise UserError(f"{path} is empty; give the _detail.txt that the scorer wrote")
    return answers


def _check_key(key: object, where: str, prompts: Mapping[str, DpgPrompt]) -> None:
    if not isinstance(key, str) or key not in prompts:
        raise UserError(f"{where}: there is no prompt {shortened(key)}")
    if not prompts[key].questions:
        raise UserError(f"{where}: {key} has no questions in the data")
