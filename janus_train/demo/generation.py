"""Generation: images drawn from held-out scenes' prompts, judged beside the true images and their VQ round trips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from janus_train.data.images import generation_pixels, to_float
from janus_train.demo.detector import detector_of
from janus_train.demo.grid import image_grid
from janus_train.demo.measures import NEAR, commonest, judge, measure, share
from janus_train.demo.scenes import Library, Scene, held_out_scenes, load_library, render
from janus_train.demo.words import NUM_CAPTIONS, first_sentence, sentence
from janus_train.evaluate.options import EvaluationOptions, Progress, counter
from janus_train.infer.decoding import inference
from janus_train.infer.generate import generate_images
from janus_train.infer.load import LoadedModel
from janus_train.jsonl import write_json_lines
from janus_train.model.vq import decode_codes, encode_images

GRID_IMAGES = 24


def prompt_of(scene: Scene, number: int) -> str:
    """The scene in one sentence, in the phrasings of training by turns."""
    return sentence(first_sentence(scene, number % NUM_CAPTIONS))


def evaluate_drawing(
    loaded: LoadedModel, shards: list[Path], out: Path, options: EvaluationOptions, report: Progress
) -> tuple[list[dict[str, Any]], int]:
    """The generation measures and the number of objects; writes pictures/, pictures.jsonl and grid.png."""
    library, scenes = load_library(tuple(shards)), held_out_scenes(shards, options.num_prompts)
    prompts = [prompt_of(scene, number) for number, scene in enumerate(scenes)]
    truth = [render(scene, library, loaded.encoder.image_size) for scene in scenes]
    trips = round_trips(loaded, truth)
    drawn = _draw(loaded, prompts, options, report)
    detector = detector_of(library)
    lines: list[dict[str, Any]] = []
    judged: dict[str, list[dict[str, list[bool]]]] = {"drawn": [], "true_pictures": [], "round_trips": []}
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
    write_json_lines(out / "pictures.jsonl", lines)
    image_grid(list(zip(prompts, drawn, truth, strict=True))[:GRID_IMAGES]).save(out / "grid.png")
    return _generation_measures(scenes, judged, library), detector.num_objects


def _draw(
    loaded: LoadedModel, prompts: Sequence[str], options: EvaluationOptions, report: Progress
) -> list[Image.Image]:
    return generate_images(
        loaded.janus,
        [loaded.encoder.generation_prompt_ids(prompt) for prompt in prompts],
        pad_id=loaded.encoder.special.pad,
        guidance=options.guidance,
        temperature=options.temperature,
        seeds=[options.seed + number for number in range(len(prompts))],
        greedy=options.temperature == 0,
        batch_size=options.batch_size,
        progress=counter(report, "draw", len(prompts)),
    )


def round_trips(loaded: LoadedModel, images: Sequence[Image.Image]) -> list[Image.Image]:
    """The images through the model's own VQ tokenizer and back: no drawing can be clearer than these."""
    size, device = loaded.encoder.image_size, loaded.janus.lm_head.weight.device
    pixels = torch.stack([torch.from_numpy(to_float(generation_pixels(p, size))) for p in images])  # (N, 3, S, S)
    vqmodel = loaded.janus.model.vqmodel
    with inference(loaded.janus):
        decoded = decode_codes(vqmodel, encode_images(vqmodel, pixels.to(device)))  # (N, S, S, 3)
    return [Image.fromarray(p) for p in decoded.cpu().numpy()]


def _right(judged: dict[str, list[bool]]) -> dict[str, bool]:
    """What the report shows for an image: all judgements of a measure at once, without the measures that do not apply."""
    return {name: all(judged[name]) for name in ("background", "count", "side", "object") if judged[name]}


def _generation_measures(
    scenes: Sequence[Scene], judged: dict[str, list[dict[str, list[bool]]]], library: Library
) -> list[dict[str, Any]]:
    # All objects are candidates, but a model that draws well any of those it has seen in scenes, whichever is asked for,
    # is right once in as many as there are: that is chance, not one in all.
    luck = 100 / len(library.scene_objects)
    chances = {
        "background": commonest(scene.background for scene in scenes),
        "count": commonest(len(scene.objects) for scene in scenes),
        **dict.fromkeys(("side", "side_one", "side_two"), 50.0),
        "object": luck,
        "object_near": luck + 100 * NEAR / len(library.objects),
    }
    measures = []
    for name, chance in chances.items():
        pooled = {kind: [right for one in all_of for right in one[name]] for kind, all_of in judged.items()}
        found = measure(name, "generation", pooled["drawn"], chance)
        measures.append(found | {kind: share(pooled[kind]) for kind in ("true_pictures", "round_trips")})
    return measures
