"""Asks the model and compares its answers with the true ones.

In: questions. Out: a line for each question with its scores, and the scores of all, by source and by group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from janus_train.evaluate.bootstrap import mean
from janus_train.evaluate.measures import share
from janus_train.evaluate.own_data.cider import cider_d
from janus_train.evaluate.own_data.questions import NO_VALUE, Question
from janus_train.evaluate.own_data.words import contains, f1, is_exact
from janus_train.infer.chat import answer_ids
from janus_train.infer.load import LoadedModel

Line = dict[str, Any]
ImagesOf = Callable[[Question], list[Image.Image]]


def ask(
    loaded: LoadedModel,
    questions: Sequence[Question],
    images_of: ImagesOf,
    max_answer_tokens: int,
    batch_size: int,
    on_answers: Callable[[int], None],
) -> list[Line]:
    """Answers the questions greedily; returns a line for each, in their order, with its scores.

    Questions of similar length are answered together, ``batch_size`` at a time; an answer does not depend on its batch.
    """
    answers: dict[int, list[int]] = {}
    order = sorted(range(len(questions)), key=lambda number: len(questions[number].prompt_ids))
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        images = [image for number in chunk for image in images_of(questions[number])]
        prompts = [questions[number].prompt_ids.tolist() for number in chunk]
        ids = answer_ids(loaded.janus, loaded.encoder, prompts, images, max_answer_tokens)
        answers |= dict(zip(chunk, ids, strict=True))
        on_answers(len(chunk))
    lines = []
    for number, question in enumerate(questions):
        words = loaded.encoder.tokenizer.decode(answers[number], skip_special_tokens=True).strip()
        lines.append(_line(question, words, is_cut=len(answers[number]) == max_answer_tokens))
    captions = [line for line in lines if line["task"] == "caption"]
    for line, score in zip(
        captions, cider_d([c["answer"] for c in captions], [c["true"] for c in captions]), strict=True
    ):
        line["cider"] = score
    return lines


def _line(question: Question, answer: str, *, is_cut: bool) -> Line:
    line: Line = {
        "task": "caption" if question.is_caption else "answer",
        "source": question.source,
        "key": question.key,
        "group": question.group,
        "question": question.text,
        "answer": answer,
        "true": question.truths,
        "is_cut": is_cut,
    }
    if question.is_caption:
        return line
    truths = question.truths
    return line | {"exact": is_exact(answer, truths), "contains": contains(answer, truths), "f1": f1(answer, truths)}


def answer_scores(lines: Sequence[Line], seed: int) -> dict[str, Any]:
    """The shares of exact and of containing answers, and the mean F1, with their intervals."""
    return {
        "n": len(lines),
        "exact": share([line["exact"] for line in lines]),
        "contains": share([line["contains"] for line in lines]),
        "f1": mean([line["f1"] for line in lines], seed),
        "num_cut": sum(line["is_cut"] for line in lines),
    }


def caption_scores(lines: Sequence[Line], seed: int) -> dict[str, Any]:
    """The mean CIDEr-D with its interval: over resampled images, with the words' rarity as in all of them."""
    return {
        "n": len(lines),
        "num_references": sum(len(line["true"]) for line in lines),
        "cider": mean([line["cider"] for line in lines], seed),
        "num_cut": sum(line["is_cut"] for line in lines),
    }


def scores_by(
    lines: Sequence[Line], scores: Callable[[Sequence[Line], int], dict[str, Any]], seed: int
) -> dict[str, Any]:
    """The scores of all lines (``all``), ``by_source`` and, if any has a value of ``--by``'s field, ``by_group``.

    Empty without any line.
    """
    if not lines:
        return {}
    results = {"all": scores(lines, seed), "by_source": _grouped(lines, "source", scores, seed)}
    groups = _grouped(lines, "group", scores, seed)
    return results | ({"by_group": groups} if groups.keys() - {"", NO_VALUE} else {})


def _grouped(
    lines: Sequence[Line], key: str, scores: Callable[[Sequence[Line], int], dict[str, Any]], seed: int
) -> dict[str, Any]:
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line[key], []).append(line)
    return {name: scores(groups[name], seed) for name in sorted(groups)}
