"""Evaluates understanding by questions about held-out scenes, and text by the perplexity of answers in dialogues.

In: a model. Out: measures; answers are compared as strings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from janus_train.data.special_tokens import PLACEHOLDER
from janus_train.data.templates import get_template
from janus_train.data.types import IGNORE, Reference
from janus_train.demo.measures import commonest, measure
from janus_train.demo.options import DemoOptions
from janus_train.demo.scenes import Scene, SceneSource, evaluation_scenes, load_library, render
from janus_train.demo.words import questions
from janus_train.evaluate.options import Progress, counter
from janus_train.infer.chat import answer
from janus_train.infer.decoding import inference, left_pad
from janus_train.infer.load import LoadedModel
from janus_train.jsonl import write_json_lines

SORTS = ("colour", "count", "place", "object", "relation")
"""Sorts of questions; as many are asked of each."""
MAX_ANSWER_TOKENS = 24


def evaluate_answers(
    model: LoadedModel, shards: list[Path], out: Path, options: DemoOptions, report: Progress
) -> list[dict[str, Any]]:
    """One measure per sort of question; writes answers.jsonl and the images of the questions."""
    library, candidates = load_library(tuple(shards)), evaluation_scenes(shards, options.choice)
    numbered_questions, scenes = choose_questions(candidates, options.num_questions, options.seed)
    images = {number: render(scene, library, model.encoder.image_size) for number, scene in scenes.items()}
    requests = [
        ([{"role": "user", "content": f"{PLACEHOLDER}\n{question}"}], [images[number]])
        for number, _, question, _ in numbered_questions
    ]
    answers = answer(
        model.janus,
        model.encoder,
        requests,
        MAX_ANSWER_TOKENS,
        batch_size=options.batch_size,
        progress=counter(report, "answer", len(requests)),
    )
    lines: list[dict[str, Any]] = []
    for (number, sort, question, expected_reply), reply in zip(numbered_questions, answers, strict=True):
        path = f"pictures/asked-{number:04d}.png"
        if not (out / path).is_file():
            images[number].save(out / path)
        is_right = normalise(reply) == normalise(expected_reply)
        lines.append(
            {
                "sort": sort,
                "question": question,
                "answer": reply,
                "expected": expected_reply,
                "right": is_right,
                "picture": path,
            }
        )
    write_json_lines(out / "answers.jsonl", lines)
    measures = []
    for sort in SORTS:
        of_sort = [line for line in lines if line["sort"] == sort]
        baseline = commonest(line["expected"] for line in of_sort)
        measures.append(measure(f"answer_{sort}", "understanding", [line["right"] for line in of_sort], baseline))
    return measures


def choose_questions(
    scenes: Iterable[Scene], number: int, seed: int
) -> tuple[list[tuple[int, str, str, str]], dict[int, Scene]]:
    """Choose ``number`` questions (number of the scene, sort, question, answer), and the scenes that they are about.

    The first scenes that have a question of a sort are asked it, until each sort has its share: few have a relation, so
    many more scenes are needed for those than for the others.
    """
    left = {sort: number // len(SORTS) + (place < number % len(SORTS)) for place, sort in enumerate(SORTS)}
    chosen: list[tuple[int, str, str, str]] = []
    scenes_asked: dict[int, Scene] = {}
    for scene_number, scene in enumerate(scenes):
        if len(chosen) == number:
            break
        for sort, question, answer_text in ask(scene, seed + scene_number):
            if left[sort]:
                left[sort] -= 1
                chosen.append((scene_number, sort, question, answer_text))
                scenes_asked[scene_number] = scene
    return chosen, scenes_asked


def ask(scene: Scene, seed: int) -> list[tuple[str, str, str]]:
    """Sample one (sort, question, answer) of each sort that the scene has questions of."""
    rng = np.random.default_rng(seed)
    all_questions = questions(scene, seed % 2)
    sampled_questions = []
    for sort in SORTS:
        of_sort = [entry for entry in all_questions if entry[0] == sort]
        if of_sort:
            sampled_questions.append(of_sort[int(rng.integers(len(of_sort)))])
    return sampled_questions


def normalise(text: str) -> str:
    """An answer without case, surrounding space and final stop."""
    return " ".join(text.lower().split()).rstrip(".")


def evaluate_dialogues(
    model: LoadedModel, shards: list[Path], options: DemoOptions, report: Progress, num_dialogues: int
) -> dict[str, Any]:
    """Perplexity of the answers in dialogues with another seed than in training; the objects are the same."""
    source = SceneSource(shards, "dialogue", "held_out", num_dialogues, choice=options.choice)
    encoder, janus = model.encoder, model.janus
    documents = []
    for index in range(num_dialogues):
        record = source[index]
        reference = Reference("dialogue", 0, index, record.key)
        documents.append(encoder.encode_without_chance(record, get_template("conversation"), "text", reference))
    documents.sort(key=len)
    total, tokens, device = 0.0, 0, janus.lm_head.weight.device
    for start in range(0, len(documents), options.batch_size):
        batch = documents[start : start + options.batch_size]
        ids, mask = (t.to(device) for t in left_pad([d.input_ids.tolist() for d in batch], encoder.special.pad))
        labels, _ = left_pad([d.labels.tolist() for d in batch], IGNORE)  # already shifted (types.py)
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        with inference(janus):
            out = janus.model.language_model(
                input_ids=ids, attention_mask=mask.long(), position_ids=positions, use_cache=False
            )
            keep = labels.to(device) != IGNORE
            logits = janus.lm_head(out.last_hidden_state[keep]).float()  # (targets, V)
            total += float(torch.nn.functional.cross_entropy(logits, labels.to(device)[keep], reduction="sum"))
        tokens += int(keep.sum())
        report("read", start + len(batch), len(documents))
    return {"n": len(documents), "tokens": tokens, "loss": total / tokens, "perplexity": math.exp(total / tokens)}
