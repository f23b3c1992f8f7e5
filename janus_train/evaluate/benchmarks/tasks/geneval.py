"""GenEval: four images of each of 553 prompts, judged by an object detector in an environment of its own.

TASK/images/00000/metadata.jsonl          the prompt's line of evaluation_metadata.jsonl
TASK/images/00000/samples/0000.png        to 0003.png
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from janus_train.data.image_files import write_png
from janus_train.evaluate.benchmarks.drawing.drawings import IMAGES, Drawing, OpenDrawings
from janus_train.evaluate.benchmarks.drawing.geneval_files import SAMPLES, image_name, read_judgements
from janus_train.evaluate.benchmarks.drawing.geneval_prompts import NUM_PROMPTS, PROMPTS_FILE, read_geneval_prompts
from janus_train.evaluate.benchmarks.drawing.geneval_scores import gaps, geneval_scores
from janus_train.evaluate.benchmarks.drawing.judgements import kept_judgements
from janus_train.evaluate.benchmarks.drawing.quick_check import DETECTIONS, quick_check_label, read_check
from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.registry import register_task
from janus_train.evaluate.benchmarks.result import PRO_TABLE, Published, Result, Score
from janus_train.evaluate.benchmarks.tables import find_files
from janus_train.files import file_sha256, write_text
from janus_train.jsonl import json_line, write_json_lines


class OpenGeneval(OpenDrawings):
    """GenEval with its prompts read."""

    def __init__(self, protocol: Protocol, file: Path):
        self.prompts = read_geneval_prompts(file)
        drawings = [
            Drawing(image_name(number, sample), prompt.prompt, (sample,))
            for number, prompt in enumerate(self.prompts)
            for sample in range(SAMPLES)
        ]
        super().__init__(protocol, [file], drawings)

    def write(self, folder: Path, number: int, images: Sequence[Image.Image]) -> None:
        """Writes an image; the first one of a prompt brings the prompt's line."""
        path = folder / self.keys[number]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, images[0])
        if number % SAMPLES == 0:
            write_text(path.parent.parent / "metadata.jsonl", json_line(self.prompts[number // SAMPLES].line))

    def check_judgements(self, file: Path) -> None:
        read_judgements(file, self.prompts)

    def score_images(self, folder: Path) -> Result:
        notes = []
        if len(self.prompts) != NUM_PROMPTS:
            notes.append(f"these are {len(self.prompts)} prompts, the published ones are {NUM_PROMPTS}")
        scores: list[Score] = []
        judged_by: dict[str, Any] = {}
        kept, label = kept_judgements(folder), quick_check_label(folder)
        for file, how in ((kept, ""), (folder / DETECTIONS, label)):
            if file is None or how is None:
                continue
            judged, kind = read_judgements(file, self.prompts)
            how = how or ("" if kind == "results" else "by the rule on the detections given")
            judged_by[file.name] = file_sha256(file)
            if kind == "detections":
                write_json_lines(folder / f"{file.stem}_judged.jsonl", map(asdict, judged))
            scores += geneval_scores(judged, how)
            notes += [f"{how}: {gap}" if how else gap for gap in gaps(judged, self.prompts)]
        if label is not None:
            judged_by |= {"quick_check": read_check(folder)}
        if kept is None:
            notes.append("GenEval's scorer has not judged these images yet")
        note = f"GenEval: {'; '.join(notes)}." if notes else ""
        commands = () if kept else scorer_commands(folder)
        headline = scores[0] if scores else None
        return Result(tuple(scores), headline, note=note, commands=commands, judged_by=judged_by)


class Geneval:
    name = "geneval"
    title = "GenEval"
    published = Published(61.0, 73.0, 80.0, PRO_TABLE)

    def open(self, data: Path, protocol: Protocol) -> OpenGeneval:
        [file] = find_files(data, self.name, (PROMPTS_FILE, f"geneval/{PROMPTS_FILE}"))
        return OpenGeneval(protocol, file)


def scorer_commands(folder: Path) -> tuple[str, ...]:
    """The commands that judge the images in the task's folder."""
    images, results = (shlex.quote(str((folder / name).absolute())) for name in (IMAGES, "geneval_results.jsonl"))
    return (
        "# GenEval, in an environment of its own with mmdetection 2: a checkout of github.com/djghosh13/geneval",
        f"python evaluation/evaluate_images.py {images} --outfile {results} --model-path DETECTOR_FOLDER",
        f"# then the same janus-train benchmark command with --tasks geneval --score {results}",
    )


register_task(Geneval())
