"""Runs the evaluation on own data, from a loaded model to its files."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from janus_train.data.cached_codes import check_codes
from janus_train.data.shards.vq_codes import CodesOrigin
from janus_train.data.types import Document
from janus_train.errors import UserError
from janus_train.evaluate.options import Progress, counter
from janus_train.evaluate.own_data.answers import answer_scores, ask, caption_scores, scores_by
from janus_train.evaluate.own_data.generation import FOLDER, draw
from janus_train.evaluate.own_data.image_scores import image_scores
from janus_train.evaluate.own_data.options import NAME, OwnDataOptions
from janus_train.evaluate.own_data.questions import Prompt, Question
from janus_train.evaluate.own_data.results import losses, manifest, notes, source_results, task_results
from janus_train.evaluate.own_data.samples import SampleReader
from janus_train.evaluate.own_data.selection import in_turn, spread
from janus_train.evaluate.own_data.sources import DataSource, OwnData, open_data
from janus_train.evaluate.own_data.survey import Survey, survey
from janus_train.files import write_json
from janus_train.infer.load import LoadedModel
from janus_train.jsonl import write_json_lines
from janus_train.model.vq import encoder_digest

NUM_QUESTIONS_WITH_IMAGES = 48
"""The first questions, whose images are written too."""


def evaluate(loaded: LoadedModel, out: Path, options: OwnDataOptions, progress: Progress) -> dict[str, Any]:
    """Evaluates, writes all into ``out`` and returns the content of results.json.

    Raises `UserError` for data that cannot be opened, and for data of which no sample can be used.
    """
    start = time.monotonic()
    data = _open(loaded, options)
    context = loaded.janus.config.text_config.max_position_embeddings
    reader = SampleReader(loaded.encoder, context, options.always_system)
    on_sample = counter(progress, "read", sum(len(source.indices) for source in data.sources))
    overview = survey(loaded, reader, data.sources, options, on_sample)
    _check(overview, options)
    _prepare_folder(out)

    document_of = partial(_document_again, reader, {source.name: source for source in data.sources})

    def images_of(question: Question) -> list[Image.Image]:
        pixels = document_of(question).understanding_pixels[: question.num_images]
        return [Image.fromarray(image) for image in pixels]

    questions = in_turn(spread(overview.tasks.questions, options.num_questions), _group)
    on_answers = counter(progress, "answer", len(questions))
    lines = ask(loaded, questions, images_of, options.max_answer_tokens, options.batch_size, on_answers)
    for number, question in enumerate(questions[:NUM_QUESTIONS_WITH_IMAGES]):
        lines[number]["images"] = []
        for place, image in enumerate(images_of(question)):
            lines[number]["images"].append(f"{FOLDER}/asked-{number:04d}-{place}.png")
            image.save(out / lines[number]["images"][-1])

    prompts = in_turn(spread(overview.tasks.prompts, options.num_prompts), _group)
    on_images = counter(progress, "draw", len(prompts))
    image_lines, images, true_images = draw(loaded, prompts, document_of, out, options, on_images)
    answers, captions = ([line for line in lines if line["task"] == task] for task in ("answer", "caption"))
    texts, device = [prompt.text for prompt in prompts], loaded.janus.device.type
    results: dict[str, Any] = {
        "evaluation": NAME,
        "manifest": manifest(loaded, data, options),
        "split": data.split,
        "sources": {
            source.name: source_results(source, overview.readings[source.name], overview.losses.get(source.name))
            for source in data.sources
        },
        "losses": losses(list(overview.losses.values())),
        "answers": scores_by(answers, answer_scores, options.seed),
        "captions": scores_by(captions, caption_scores, options.seed),
        "images": image_scores(images, true_images, texts, options, device, image_lines),
        "tasks": task_results(overview.tasks, len(questions), len(prompts), options.by),
        "seconds": round(time.monotonic() - start, 1),
    }
    results["notes"] = list(notes(results))
    write_json_lines(out / "answers.jsonl", lines)
    write_json_lines(out / "images.jsonl", image_lines)
    write_json_lines(
        out / "unusable.jsonl", [asdict(bad) for reading in overview.readings.values() for bad in reading.unusable]
    )
    write_json(out / "results.json", results)
    return results


def _open(loaded: LoadedModel, options: OwnDataOptions) -> OwnData:
    data = open_data(options.data, options.template, options.split, loaded.encoder.image_size, options.num_samples)
    if data.recipe is not None:
        encoder = encoder_digest(loaded.janus.model.vqmodel)
        check_codes(data.recipe, CodesOrigin(encoder, loaded.encoder.generation_image_size))
    return data


def _check(overview: Survey, options: OwnDataOptions) -> None:
    """Raises `UserError` if no sample can be used, or if no sample has the field of ``--by``."""
    readings = overview.readings.values()
    num_used = sum(reading.num_used for reading in readings)
    if not num_used:
        first = next(bad for reading in readings for bad in reading.unusable)
        raise UserError(
            f"{options.data}: none of the {sum(reading.num_read for reading in readings):,} samples that were read can be "
            f"used, the first is {first.key}: {first.reason}"
        )
    if options.by is not None and overview.tasks.num_without_group == num_used:
        raise UserError(f"--by {options.by}: no sample has a field of this name with a text or a number in it")


def _prepare_folder(out: Path) -> None:
    """Removes the files of an earlier evaluation; results.json is written last, so it marks a complete evaluation."""
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (out / "results.json").unlink(missing_ok=True)
    for pattern in ("[0-9][0-9][0-9][0-9]*.png", "asked-[0-9]*.png"):
        for path in folder.glob(pattern):
            path.unlink()


def _document_again(reader: SampleReader, sources: dict[str, DataSource], task: Question | Prompt) -> Document:
    return reader.again(sources[task.source], task.index)


def _group(task: Question | Prompt) -> tuple[str, str]:
    return task.source, task.group
