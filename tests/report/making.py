"""Folders of runs and evaluations with invented numbers."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import yaml
from PIL import Image

from janus_train.config import PARTS
from janus_train.demo.measures import measure
from janus_train.evaluate.measures import share

RATIOS = {1: (1, 0, 3), 2: (2, 3, 5), 3: (5, 1, 4)}
TRAINED = {
    1: ["understanding_adaptor", "generation_adaptor", "image_head"],
    2: ["understanding_adaptor", "generation_adaptor", "image_head", "language_model"],
    3: [part for part in PARTS if part not in ("generation_encoder", "generation_embedding")],
}
KINDS = ("understanding", "text", "generation")


def make_run(folder: Path, stage: int, num_steps: int = 60) -> Path:
    """A run's folder as training leaves it, with invented numbers."""
    (folder / "samples").mkdir(parents=True)
    rng = random.Random(stage)
    ratio = dict(zip(KINDS, RATIOS[stage], strict=True))
    config = {
        "stage": stage,
        "seed": 0,
        "train_parts": TRAINED[stage],
        "model": {"name": "tiny", "image_size": 64},
        "ratio": ratio,
        "optim": {"learning_rate": 2e-3, "schedule": "constant", "warmup_steps": 10},
        "batch": {"row_tokens": 512, "rows_per_step": 4},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    manifest = {
        "stage": stage,
        "config": config,
        "parts": {
            p: {"parameters": 1000 * (n + 1), "trains": p in TRAINED[stage], "new": False} for n, p in enumerate(PARTS)
        },
        "commit": "0123456789abcdef",
        "versions": {"torch": "2.13"},
        "hardware": {"machine": "x86_64", "system": "Linux", "cpus": 2, "gpus": []},
        "data": {"recipe": "feedfacefeedface"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, num_steps + 1):
            falling = 1.5 + 4 * math.exp(-4 * step / num_steps)
            line = {
                "step": step,
                "loss": falling,
                "loss/text": None if stage == 1 else falling + rng.gauss(0, 0.15),
                "loss/understanding": falling * 0.7 + rng.gauss(0, 0.2),
                "loss/generation": falling * 1.2 + rng.gauss(0, 0.05),
                **{f"samples/{kind}": round(4 * part + rng.random()) if part else 0 for kind, part in ratio.items()},
                "tokens": 1900,
                "fill": 0.93 + 0.05 * rng.random(),
                "learning_rate": 2e-3 * min(1.0, step / 10),
                "grad_norm": None if step == 7 else 1 + rng.random(),
                "tokens_per_s": 9000 + 800 * rng.random(),
                "step_s": 0.2,
                "batch_digest": "0" * 16,
            }
            file.write(json.dumps(line) + "\n")
    for step in (num_steps // 2, num_steps):
        Image.new("RGB", (256, 128), (40, 90, 210)).save(folder / "samples" / f"step-{step:06d}.png")
    return folder


def make_evaluation(folder: Path, num_images: int = 12) -> Path:
    """An evaluation's folder, with invented numbers."""
    (folder / "pictures").mkdir(parents=True)
    rng = random.Random(0)

    def generation(name: str, rate: float, chance: float) -> dict:
        judged = [rng.random() < rate for _ in range(200)]
        found = measure(name, "generation", judged, chance)
        return found | {"true_pictures": share([True] * 200), "round_trips": share([True] * 190 + [False] * 10)}

    measures = [
        generation("background", 0.95, 18.0),
        generation("count", 0.8, 38.0),
        generation("place", 0.7, 8.0),
        generation("object", 0.95, 2.5),
        generation("all", 0.5, 0.02),
        *(
            measure(f"answer_{sort}", "understanding", [rng.random() < 0.85 for _ in range(100)], 20.0)
            for sort in ("colour", "count", "place", "object", "relation")
        ),
    ]
    results = {
        "num_prompts": 200,
        "num_questions": 400,
        "guidance": 5.0,
        "temperature": 1.0,
        "seconds": 71.5,
        "measures": measures,
        "text": {"n": 100, "tokens": 2100, "perplexity": 2.34},
    }
    (folder / "results.json").write_text(json.dumps(results))
    images, answers = [], []
    for n in range(num_images):
        for end in ("", "-true"):
            Image.new("RGB", (64, 64), (20 * n % 256, 90, 120)).save(folder / f"pictures/{n:04d}{end}.png")
        images.append(
            {
                "prompt": f"Prompt {n}: a dog face on the left, on a <red> background.",
                "picture": f"pictures/{n:04d}.png",
                "true_picture": f"pictures/{n:04d}-true.png",
                "right": {"background": True, "count": n % 2 == 0, "object": False},
            }
        )
        answers.append(
            {
                "sort": ("colour", "count", "place", "object")[n % 4],
                "question": f"Question {n}?",
                "answer": "Red & blue.",
                "expected": "Green.",
                "right": n % 3 == 0,
                "picture": f"pictures/{n:04d}-true.png",
            }
        )
    (folder / "pictures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in images))
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    return folder


def make_own_data(folder: Path, num_lines: int = 6) -> Path:
    """The folder of an evaluation on own data, with invented numbers."""
    (folder / "evaluation_images").mkdir(parents=True)
    for n in range(num_lines):
        for end in ("", "-true", "-input"):
            Image.new("RGB", (64, 64), (30 * n % 256, 90, 120)).save(folder / f"evaluation_images/{n:04d}{end}.png")
    losses = {"loss": 1.5, "targets": 1234, "by_kind": {"understanding": {"loss": 1.5, "targets": 1234}}}
    scores = {
        "n": 20,
        "exact": share([True] * 15 + [False] * 5),
        "contains": share([True] * 16 + [False] * 4),
        "f1": {"n": 20, "mean": 0.825, "low": 0.7, "high": 0.9},
        "num_cut": 1,
    }
    captions = {"n": 5, "num_references": 10, "cider": {"n": 5, "mean": 3.25, "low": 2.5, "high": 4.0}, "num_cut": 0}
    results = {
        "evaluation": "own_data",
        "manifest": {"model": "outputs/mine/final", "data": "mine.yaml", "data_digests": {"talks": "feedfacefeedface"}},
        "split": "held_out",
        "sources": {
            "talks": {"kind": "understanding", "template": "conversation", "num_used": 20, "losses": losses},
            "photos": {"kind": "generation", "template": "text_to_image", "num_used": 0, "losses": None},
        },
        "losses": losses,
        "answers": {"all": scores, "by_source": {"talks": scores}, "by_group": {"colour <1>": scores}},
        "captions": {"all": captions, "by_source": {"talks": captions}},
        "images": {
            "n": num_lines,
            "problems": [],
            "clip": {
                "n": num_lines,
                "mean": 23.45,
                "low": 22.0,
                "high": 25.0,
                "of_true_images": 28.76,
                "how": "CLIP <x>",
            },
            "fid": {"value": 45.67, "how": "so many images"},
        },
        "tasks": {"num_asked": 25, "num_drawn": num_lines, "by": "type"},
        "notes": ["3 samples & more cannot be used"],
        "seconds": 12.0,
    }
    (folder / "results.json").write_text(json.dumps(results))
    answers, images = [], []
    for n in range(num_lines):
        line = {
            "source": "talks",
            "group": "colour <1>",
            "question": f"Question {n}?",
            "answer": "Red & blue.",
            "true": ["Green.", "Lime."],
            "images": [f"evaluation_images/{n:04d}.png"],
        }
        if n % 2:
            answers.append(line | {"task": "caption", "cider": 1.25})
        else:
            answers.append(line | {"task": "answer", "exact": n % 4 == 0, "f1": 0.5})
        name = f"evaluation_images/{n:04d}"
        image = {"source": "photos", "group": "", "prompt": f"Prompt {n}, <red>.", "image": f"{name}.png"}
        image |= {"true_image": f"{name}-true.png", "clip": 20.5, "true_clip": 30.5}
        images.append(image | ({"input_image": f"{name}-input.png"} if n == 0 else {}))
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    (folder / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in images))
    return folder


def add_validation(folder: Path, every: int = 10) -> None:
    """Validations and answers of a run of `make_run`."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["step"] % every == 0:
            value = 2 + abs(line["step"] - 40) / 20  # the lowest at step 40
            line |= {
                "validation/loss": value,
                "validation/loss/understanding": value,
                "validation/source/photos": value,
            }
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Image.new("RGB", (96, 96), (200, 40, 40)).save(folder / "samples/question-1.png")
    for step in range(every, 61, every):
        answer = {"question": "Who <b>is</b> it?", "answer": f"Tom at {step}.", "expected": "Tom."}
        answer["image"] = "samples/question-1.png"
        (folder / f"samples/step-{step:06d}.json").write_text(json.dumps({"answers": [answer]}))
