"""Evaluates generation. In: prompts of held-out scenes. Out: the images, and measures of them.

The true images and their VQ round trips are judged in the same way, for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from janus_train.data.images import generation_pixels, to_float
from janus_train.demo.detector import detector_of
from janus_train.demo.grid import drawn_sheet, image_grid
from janus_train.demo.measures import commonest, judge, measure
from janus_train.demo.options import DemoOptions
from janus_train.demo.scenes import Library, Scene, held_out_scenes, load_library, render
from janus_train.demo.words import NUM_CAPTIONS, first_sentence, sentence
from janus_train.evaluate.measures import share
from janus_train.evaluate.options import Progress, counter
from janus_train.infer.decoding import inference
from janus_train.infer.load import LoadedModel
from janus_train.jsonl import write_json_lines
from janus_train.model.vq import decode_codes, encode_images

GRID_IMAGES, DRAWN_IMAGES = 24, 12
"""The first prompts in grid.png, beside the true images, and in drawn.png."""


def prompt_of(scene: Scene, number: int) -> str:
    """The scene in one sentence, in one of the phrasings of training."""
    return sentence(first_sentence(scene, number % NUM_CAPTIONS))


def evaluate_generation(
    model: LoadedModel, shards: list[Path], out: Path, options: DemoOptions, report: Progress
) -> tuple[list[dict[str, Any]], int]:
    """Measure generation; returns the measures and the number of objects. Writes pictures/, pictures.jsonl,
    grid.png and drawn.png."""
    library = load_library(tuple(shards)).choose(options.choice)
    scenes = held_out_scenes(shards, options.num_prompts, options.choice)
    prompts = [prompt_of(scene, number) for number, scene in enumerate(scenes)]
    true_images = [render(scene, library, model.encoder.image_size) for scene in scenes]
    round_trip_images = round_trips(model, true_images)
    generated_images = _generate(model, prompts, options, report)
    detector = detector_of(library)
    lines: list[dict[str, Any]] = []
    judgements: dict[str, list[dict[str, list[bool]]]] = {"drawn": [], "true_pictures": [], "round_trips": []}
    for number, scene in enumerate(scenes):
        detection = detector.detect(generated_images[number])
        judgements["drawn"].append(judge(scene, detection))
        judgements["true_pictures"].append(judge(scene, detector.detect(true_images[number])))
        judgements["round_trips"].append(judge(scene, detector.detect(round_trip_images[number])))
        name = f"pictures/{number:04d}"
        generated_images[number].save(out / f"{name}.png")
        true_images[number].save(out / f"{name}-true.png")
        lines.append(
            {
                "prompt": prompts[number],
                "scene": scene.label,
                "seed": options.seed + number,
                "picture": f"{name}.png",
                "true_picture": f"{name}-true.png",
                "found": {"background": detection.background, "places": detection.places},
                "right": _measures_right(judgements["drawn"][-1]),
            }
        )
        report("judge", number + 1, len(scenes))
    write_json_lines(out / "pictures.jsonl", lines)
    image_grid(list(zip(prompts, generated_images, true_images, strict=True))[:GRID_IMAGES]).save(out / "grid.png")
    drawn_sheet(list(zip(prompts, generated_images, strict=True))[:DRAWN_IMAGES]).save(out / "drawn.png")
    return _generation_measures(scenes, judgements, library), detector.num_objects


def _generate(model: LoadedModel, prompts: Sequence[str], options: DemoOptions, report: Progress) -> list[Image.Image]:
    return model.generate(
        prompts,
        seeds=[options.seed + number for number in range(len(prompts))],
        guidance=options.guidance,
        temperature=options.temperature,
        batch_size=options.batch_size,
        progress=counter(report, "draw", len(prompts)),
    )


def round_trips(model: LoadedModel, images: Sequence[Image.Image]) -> list[Image.Image]:
    """Encode and decode the images with the model's VQ tokenizer: no generated image can be clearer than these."""
    size, device = model.encoder.image_size, model.janus.lm_head.weight.device
    pixels = torch.stack([torch.from_numpy(to_float(generation_pixels(p, size))) for p in images])  # (N, 3, S, S)
    vqmodel = model.janus.model.vqmodel
    with inference(model.janus):
        decoded_pixels = decode_codes(vqmodel, encode_images(vqmodel, pixels.to(device)))  # (N, S, S, 3)
    return [Image.fromarray(p) for p in decoded_pixels.cpu().numpy()]


def _measures_right(judgements: dict[str, list[bool]]) -> dict[str, bool]:
    """Whether all judgements of each measure are right, for the report."""
    return {name: all(judgements[name]) for name in ("background", "count", "place", "object")}


def _generation_measures(
    scenes: Sequence[Scene], judgements: dict[str, list[dict[str, list[bool]]]], library: Library
) -> list[dict[str, Any]]:
    # All objects are candidates. But a model that draws some object of the training scenes well, whatever the prompt, is
    # right once in the number of those objects: so this is chance, and not one in all objects.
    object_chance = 100 / len(library.scene_objects)
    chances = {
        "background": commonest(scene.background for scene in scenes),
        "count": commonest(len(scene.objects) for scene in scenes),
        "place": commonest(frozenset(placed_object.place for placed_object in scene.objects) for scene in scenes),
        "object": object_chance,
    }
    # With one object, whose size is right half of the time; with more it is less.
    chances["all"] = chances["background"] * chances["place"] * object_chance / 2 / 100**2
    measures = []
    for name, chance in chances.items():
        pooled_judgements = {
            kind: [judgement for image_judgements in judgements_of_kind for judgement in image_judgements[name]]
            for kind, judgements_of_kind in judgements.items()
        }
        result = measure(name, "generation", pooled_judgements["drawn"], chance)
        measures.append(result | {kind: share(pooled_judgements[kind]) for kind in ("true_pictures", "round_trips")})
    return measures
