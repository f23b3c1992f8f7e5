"""Evaluation of a model's folder on held-out scenes of the embedded pictures.

held-out scenes -> prompts   -> pictures -> detector  -> shares right, beside true pictures and VQ round trips
                -> questions -> answers  -> comparison -> shares right
dialogues       -> perplexity of the answers
    -> results.json, pictures.jsonl, answers.jsonl, pictures/*.png, grid.png
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from janus_train.config import ROOT, UserError
from janus_train.data.encode import PLACEHOLDER
from janus_train.data.pictures import generation_pixels, to_float
from janus_train.data.sample import IGNORE, Reference
from janus_train.data.scene_text import NUM_CAPTIONS, first_sentence, questions, sentence
from janus_train.data.scenes import Scene, SceneSource, held_out_scenes, library, render
from janus_train.evaluate.detector import detector_of
from janus_train.evaluate.grid import picture_grid
from janus_train.evaluate.measures import LABELS, NEAR, commonest, judge, measure, share
from janus_train.infer.chat import answer
from janus_train.infer.decoding import inference, left_pad
from janus_train.infer.generate import generate_pictures
from janus_train.infer.load import Loaded
from janus_train.model.codes import decode_codes, encode_pictures

SHARDS = ROOT / "data_recipes" / "demo" / "shards"
SORTS = ("colour", "count", "place", "object")
"""One question of each sort is asked about a scene."""
MAX_ANSWER_TOKENS = 24
GRID_PICTURES = 24

Progress = Callable[[str, int, int], None]
"""Told (what is being done, how many are done, of how many)."""


@dataclass(frozen=True)
class Options:
    """How to evaluate."""

    num_prompts: int
    num_questions: int
    seed: int
    guidance: float
    temperature: float
    num_dialogues: int = 100
    batch_size: int = 64


def evaluate(loaded: Loaded, out_dir: str | Path, options: Options, progress: Progress | None = None) -> dict[str, Any]:
    """Draws, answers, judges, and writes everything into ``out_dir``; returns what results.json holds."""
    report = progress or (lambda what, done, total: None)
    start = time.monotonic()
    shards = sorted(SHARDS.glob("*.tar"))
    if not shards:
        raise UserError(f"the embedded pictures are missing: there is no .tar in {SHARDS}")
    out = Path(out_dir).expanduser()
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    measures, num_objects = _generation(loaded, shards, out, options, report)
    measures += _understanding(loaded, shards, out, options, report)
    results = {
        "model": str(loaded.folder),
        "num_objects": num_objects,
        "near": NEAR,
        **{key: getattr(options, key) for key in ("num_prompts", "num_questions", "seed", "guidance", "temperature")},
        "measures": measures,
        "text": _dialogues(loaded, shards, options, report),
        "seconds": round(time.monotonic() - start, 1),
    }
    (out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return results


def prompt_of(scene: Scene, number: int) -> str:
    """The scene in one sentence, in the phrasings of training by turns."""
    return sentence(first_sentence(scene, number % NUM_CAPTIONS))


# ---------------------------------------------------------------------------------------------------------- generation


def _generation(
    loaded: Loaded, shards: list[Path], out: Path, options: Options, report: Progress
) -> tuple[list[dict[str, Any]], int]:
    """The generation measures and the number of objects; writes pictures/, pictures.jsonl and grid.png."""
    objects, scenes = library(tuple(shards)), held_out_scenes(shards, options.num_prompts)
    prompts = [prompt_of(scene, number) for number, scene in enumerate(scenes)]
    truth = [render(scene, objects, loaded.encoder.image_size) for scene in scenes]
    trips = round_trips(loaded, truth)
    drawn = _draw(loaded, prompts, options, report)
    detector = detector_of(objects)
    lines, judged = [], {"drawn": [], "true_pictures": [], "round_trips": []}  # type: ignore[var-annotated]
    for number, scene in enumerate(scenes):
        detection = detector.detect(drawn[number])
        judged["drawn"].append(judge(scene, detection))
        judged["true_pictures"].append(judge(scene, detector.detect(truth[number])))
        judged["round_trips"].append(judge(scene, detector.detect(trips[number])))
        name = f"pictures/{number:04d}"
        drawn[number].save(out / f"{name}.png")
        truth[number].save(out / f"{name}-true.png")
        lines.append(
            {
                "prompt": prompts[number],
                "scene": scene.label,
                "seed": options.seed + number,
                "picture": f"{name}.png",
                "true_picture": f"{name}-true.png",
                "found": {"background": detection.background, "places": detection.places},
                "right": _right(judged["drawn"][-1]),
            }
        )
        report("judge", number + 1, len(scenes))
    _write_lines(out / "pictures.jsonl", lines)
    picture_grid(list(zip(prompts, drawn, truth, strict=True))[:GRID_PICTURES]).save(out / "grid.png")
    return _generation_measures(scenes, judged, detector.num_objects), detector.num_objects


def _draw(loaded: Loaded, prompts: Sequence[str], options: Options, report: Progress) -> list[Image.Image]:
    done = 0

    def count(new: int) -> None:
        nonlocal done
        done += new
        report("draw", done, len(prompts))

    return generate_pictures(
        loaded.janus,
        [loaded.encoder.generation_prompt_ids(prompt) for prompt in prompts],
        pad_id=loaded.encoder.special.pad,
        guidance=options.guidance,
        temperature=options.temperature,
        seeds=[options.seed + number for number in range(len(prompts))],
        batch_size=options.batch_size,
        progress=count,
    )


def round_trips(loaded: Loaded, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """The pictures through the model's own VQ tokenizer and back: no drawing can be clearer than these."""
    size, device = loaded.encoder.image_size, loaded.janus.lm_head.weight.device
    pixels = torch.stack([torch.from_numpy(to_float(generation_pixels(p, size))) for p in pictures])  # (N, 3, S, S)
    vqmodel = loaded.janus.model.vqmodel
    with inference(loaded.janus):
        decoded = decode_codes(vqmodel, encode_pictures(vqmodel, pixels.to(device)))  # (N, S, S, 3)
    return [Image.fromarray(p) for p in decoded.cpu().numpy()]


def _right(judged: dict[str, list[bool]]) -> dict[str, bool]:
    """What the report shows for a picture: all judgements of a measure at once, without the measures that do not apply."""
    shown = {"background": "background", "count": "count", "side": "side", "object": "object"}
    return {word: all(judged[name]) for name, word in shown.items() if judged[name]}


def _generation_measures(
    scenes: Sequence[Scene], judged: dict[str, list[dict[str, list[bool]]]], num_objects: int
) -> list[dict[str, Any]]:
    chances = {
        "background": commonest(scene.background for scene in scenes),
        "count": commonest(len(scene.placed) for scene in scenes),
        "side": 50.0,
        "object": 100 / num_objects,
        "object_near": 100 * NEAR / num_objects,
    }
    measures = []
    for name, chance in chances.items():
        pooled = {kind: [right for one in all_of for right in one[name]] for kind, all_of in judged.items()}
        found = measure(name, "generation", pooled["drawn"], chance)
        measures.append(found | {kind: share(pooled[kind]) for kind in ("true_pictures", "round_trips")})
    return measures


# ------------------------------------------------------------------------------------------------------- understanding


def _understanding(
    loaded: Loaded, shards: list[Path], out: Path, options: Options, report: Progress
) -> list[dict[str, Any]]:
    """One measure a sort of question; writes answers.jsonl and the pictures asked about."""
    objects = library(tuple(shards))
    scenes = held_out_scenes(shards, -(-options.num_questions // len(SORTS)))
    pictures = [render(scene, objects, loaded.encoder.image_size) for scene in scenes]
    asked = [(number, *one) for number, scene in enumerate(scenes) for one in _ask(scene, options.seed + number)]
    asked = asked[: options.num_questions]
    requests = [
        ([{"role": "user", "content": f"{PLACEHOLDER}\n{question}"}], [pictures[number]])
        for number, _, question, _ in asked
    ]
    done = 0

    def count(new: int) -> None:
        nonlocal done
        done += new
        report("answer", done, len(requests))

    answers = answer(
        loaded.janus, loaded.encoder, requests, MAX_ANSWER_TOKENS, batch_size=options.batch_size, progress=count
    )
    lines = []
    for (number, sort, question, expected), given in zip(asked, answers, strict=True):
        path = f"pictures/asked-{number:04d}.png"
        if not (out / path).is_file() or sort == SORTS[0]:
            pictures[number].save(out / path)
        right = normalised(given) == normalised(expected)
        lines.append(
            {"sort": sort, "question": question, "answer": given, "expected": expected, "right": right, "picture": path}
        )
    _write_lines(out / "answers.jsonl", lines)
    measures = []
    for sort in SORTS:
        of_sort = [line for line in lines if line["sort"] == sort]
        baseline = commonest(line["expected"] for line in of_sort)
        measures.append(measure(f"answer_{sort}", "understanding", [line["right"] for line in of_sort], baseline))
    return measures


def _ask(scene: Scene, seed: int) -> list[tuple[str, str, str]]:
    """(sort, question, answer): one of each sort, about an object of the scene taken by the seed."""
    rng = np.random.default_rng(seed)
    found = questions(scene, seed % 2)
    chosen = []
    for sort in SORTS:
        of_sort = [one for one in found if one[0] == sort]
        chosen.append(of_sort[int(rng.integers(len(of_sort)))])
    return chosen


def normalised(text: str) -> str:
    """An answer without case, surrounding space and final stop."""
    return " ".join(text.lower().split()).rstrip(".")


# ---------------------------------------------------------------------------------------------------------------- text


def _dialogues(loaded: Loaded, shards: list[Path], options: Options, report: Progress) -> dict[str, Any]:
    """Perplexity of the answers in dialogues that training did not draw."""
    source = SceneSource(shards, "dialogue", "held_out", options.num_dialogues)
    encoder, janus = loaded.encoder, loaded.janus
    documents = []
    for index in range(options.num_dialogues):
        record = source[index]
        sample = encoder.sample(record, "conversation", "text", random.Random(0), 0.0, 0.0)
        documents.append(encoder.document(sample, Reference("dialogue", 0, index, record.key)))
    documents.sort(key=len)
    total, tokens, device = 0.0, 0, janus.lm_head.weight.device
    for start in range(0, len(documents), options.batch_size):
        batch = documents[start : start + options.batch_size]
        ids, mask = (t.to(device) for t in left_pad([d.input_ids.tolist() for d in batch], encoder.special.pad))
        labels, _ = left_pad([d.labels.tolist() for d in batch], IGNORE)  # already shifted (sample.py)
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


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


assert set(LABELS) >= {f"answer_{sort}" for sort in SORTS}
