"""DPG-Bench: four images of each of 1065 long prompts in one grid, judged by a question answerer in its own environment.

TASK/images/KEY.png        two by two images, in the order of their numbers
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from janus_train.data.image_files import open_image, write_png
from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.drawing.dpg_answers import SAMPLES, read_answers
from janus_train.evaluate.benchmarks.drawing.dpg_prompts import CSV_FILE, NUM_PROMPTS, read_dpg
from janus_train.evaluate.benchmarks.drawing.dpg_scores import dpg_scores, gaps
from janus_train.evaluate.benchmarks.drawing.drawings import IMAGES, Drawing, OpenDrawings
from janus_train.evaluate.benchmarks.drawing.judgements import kept_judgements
from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.registry import register_task
from janus_train.evaluate.benchmarks.result import PRO_TABLE, Published, Result, Score
from janus_train.files import file_sha256
from janus_train.infer.image_grid import grid

FOLDER = "dpg_bench"
"""The folder of the data, named as in DPG-Bench's repository."""


class OpenDpg(OpenDrawings):
    """DPG-Bench with its prompts and, if they are there, questions read."""

    def __init__(self, protocol: Protocol, data: Path):
        self.data = read_dpg(data)
        drawings = [
            Drawing(f"{key}.png", prompt.text, tuple(range(SAMPLES))) for key, prompt in self.data.prompts.items()
        ]
        super().__init__(protocol, (), drawings)  # questions may come later: the prompts' own digest is enough

    def write(self, folder: Path, number: int, images: Sequence[Image.Image]) -> None:
        write_png(folder / self.keys[number], grid([images[:2], images[2:]]))

    def check_judgements(self, file: Path) -> None:
        answers = read_answers(file, self.data.prompts)
        if not answers.complete:
            raise UserError(f"--score {file}: not one prompt has answers to all its questions in {CSV_FILE}")

    def score_images(self, folder: Path) -> Result:
        notes = list(self.data.notes)
        if len(self.data.prompts) != NUM_PROMPTS:
            notes.append(f"these are {len(self.data.prompts)} prompts, the published ones are {NUM_PROMPTS}")
        scores: tuple[Score, ...] = ()
        judged_by: dict[str, str] = {}
        kept = kept_judgements(folder)
        if kept is None:
            notes.append("DPG-Bench's scorer has not judged these images yet")
        else:
            answers = read_answers(kept, self.data.prompts)
            scores = dpg_scores(self.data.prompts, answers)
            notes += gaps(self.data.prompts, answers)
            judged_by = {path.name: file_sha256(path) for path in (kept, self.data.table) if path is not None}
        note = f"DPG-Bench: {'; '.join(notes)}." if notes else ""
        commands = () if kept else self._commands(folder)
        return Result(scores, scores[0] if scores else None, note=note, commands=commands, judged_by=judged_by)

    def _commands(self, folder: Path) -> tuple[str, ...]:
        drawn = next((folder / IMAGES / key for key in self.keys if (folder / IMAGES / key).is_file()), None)
        return scorer_commands(folder, open_image(drawn).width // 2) if drawn else ()


class Dpg:
    name = "dpg"
    title = "DPG-Bench"
    published = Published(79.68, 82.63, 84.19, PRO_TABLE)

    def open(self, data: Path, protocol: Protocol) -> OpenDpg:
        if not data.is_dir():
            raise UserError(f"--data {data}: there is no such folder")
        return OpenDpg(protocol, data / FOLDER)


def scorer_commands(folder: Path, resolution: int) -> tuple[str, ...]:
    """The commands that judge the images in the task's folder; ``resolution``: the side of one image in pixels.

    One process: the script gathers categories in the order of a Python set, which may differ between processes.
    """
    images, results, details = (
        shlex.quote(str((folder / name).absolute())) for name in (IMAGES, "dpg_results.txt", "dpg_results_detail.txt")
    )
    return (
        "# DPG-Bench, in an environment of its own with modelscope: a checkout of github.com/TencentQQGYLab/ELLA",
        f"accelerate launch --num_processes 1 dpg_bench/compute_dpg_bench.py --image-root-path {images} "
        f"--resolution {resolution} --pic-num {SAMPLES} --vqa-model mplug --res-path {results}",
        f"# then the same janus-train benchmark command with --tasks dpg --score {details}",
    )


register_task(Dpg())
