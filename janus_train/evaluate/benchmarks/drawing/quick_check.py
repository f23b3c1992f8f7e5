"""A quick check of GenEval's images without the scorer's environment: transformers' Mask2Former or OWLv2, and CLIP
for colours.

    TASK/quick_check.json    which detector, and whether it has seen all images; another one begins again
    TASK/detections.jsonl    a line per image, in the format of `geneval_files`; a second run goes on behind it

Its numbers are labelled as not the paper's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from janus_train.data.image_files import ImageError, open_image
from janus_train.data.images import to_rgb
from janus_train.data.types import BadSample
from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.drawing.colours import ColourClassifier
from janus_train.evaluate.benchmarks.drawing.drawings import IMAGES
from janus_train.evaluate.benchmarks.drawing.geneval_files import SAMPLES, image_name
from janus_train.evaluate.benchmarks.drawing.geneval_prompts import GenevalPrompt
from janus_train.evaluate.benchmarks.drawing.geneval_rule import DetectedObject, confident_objects
from janus_train.evaluate.benchmarks.drawing.instance import Instance
from janus_train.evaluate.benchmarks.drawing.mask2former import Mask2FormerDetector
from janus_train.evaluate.benchmarks.drawing.owlv2 import Owlv2Detector
from janus_train.files import file_sha256, read_json_object_if_any, write_json
from janus_train.jsonl import JsonLinesFile, Line, read_json_lines, write_json_lines

DETECTIONS, CHECK = "detections.jsonl", "quick_check.json"
_BATCH = 16
"""Images per write."""

Detector = Mask2FormerDetector | Owlv2Detector


def load_detector(folder: Path, names: Collection[str], device: str) -> Detector:
    """Loads the detector in the folder, by the type in its configuration. Raises `UserError` if it is none."""
    is_owlv2 = read_json_object_if_any(folder / "config.json").get("model_type") == "owlv2"
    return (Owlv2Detector if is_owlv2 else Mask2FormerDetector)(folder, names, device)


def quick_check(
    prompts: Sequence[GenevalPrompt],
    folder: Path,
    detector_folder: Path,
    clip_folder: Path | None,
    device: str,
    progress: Callable[[str, int, int], None],
) -> None:
    """Detects objects in all images that were drawn. Without CLIP, images whose colours decide are left out.

    Raises:
        UserError: a folder is not such a model, or an image cannot be read.
    """
    names = {each.name for prompt in prompts for each in (*prompt.include, *prompt.exclude)}
    detector = load_detector(detector_folder, names, device)
    classifier = None if clip_folder is None else ColourClassifier(clip_folder, device)
    check = {
        "detector": {"kind": detector.kind, **_identity(detector_folder)},
        "clip": clip_folder and _identity(clip_folder),
    }
    earlier_check = read_check(folder)
    if any(earlier_check.get(name) != value for name, value in check.items()):
        (folder / DETECTIONS).unlink(missing_ok=True)
    write_json(folder / CHECK, check | {"complete": False})
    earlier = read_json_lines(folder / DETECTIONS)
    write_json_lines(folder / DETECTIONS, earlier)  # without a last line that a kill has cut off
    finished = {line["image"] for line in earlier}
    drawn = [
        (image_name(number, sample), prompt)
        for number, prompt in enumerate(prompts)
        for sample in range(SAMPLES)
        if (classifier is not None or not _asks_colours(prompt))
        and (folder / IMAGES / image_name(number, sample)).is_file()
    ]
    with closing(JsonLinesFile(folder / DETECTIONS)) as file:
        lines: list[Line] = []
        for count, (name, prompt) in enumerate(drawn, 1):
            if name not in finished:
                lines.append({"image": name, "objects": _objects(folder / IMAGES / name, prompt, detector, classifier)})
            if len(lines) == _BATCH or count == len(drawn):
                file.append(*lines)
                lines = []
            progress("detect", count, len(drawn))
    write_json(folder / CHECK, check | {"complete": True})


def read_check(folder: Path) -> dict[str, Any]:
    """Which models the quick check in the task's folder is by; empty if there is none."""
    return read_json_object_if_any(folder / CHECK)


def quick_check_label(folder: Path) -> str | None:
    """What to call the scores of detections.jsonl; None if no quick check has seen all images."""
    check = read_check(folder)
    if not check.get("complete"):
        return None
    clip = f" and CLIP in {check['clip']['name']}" if check["clip"] else ""
    detector = f"{check['detector']['kind']} in {check['detector']['name']}"
    return f"quick check with {detector}{clip}, not the paper's detector"


def _identity(folder: Path) -> dict[str, str]:
    """The folder's name and a SHA-256 of its configuration and weights."""
    paths = sorted(path for pattern in ("*.json", "*.safetensors", "*.bin") for path in folder.glob(pattern))
    digests = "".join(file_sha256(path) for path in paths)
    return {"name": folder.absolute().name, "sha256": hashlib.sha256(digests.encode()).hexdigest()}


def _asks_colours(prompt: GenevalPrompt) -> bool:
    return any(requirement.colour is not None for requirement in prompt.include)


def _objects(
    path: Path, prompt: GenevalPrompt, detector: Detector, classifier: ColourClassifier | None
) -> list[dict[str, Any]]:
    """The objects in one image; those whose colour decides have it."""
    image = _read(path)
    instances = detector.detect(image)
    objects = {id(each.object): each.object for each in instances}
    if classifier is not None:
        decisive = _decisive(prompt, instances)
        for instance, colour in zip(decisive, classifier.classify(image, decisive), strict=True):
            objects[id(instance.object)] = replace(instance.object, colour=colour)
    return [_values(each) for each in objects.values()]


def _decisive(prompt: GenevalPrompt, instances: Sequence[Instance]) -> list[Instance]:
    """The objects whose colour the rule reads: the most confident ones of a class, as many as the prompt asks for."""
    found = confident_objects(prompt.tag, [instance.object for instance in instances])
    wanted = {
        id(each)
        for requirement in prompt.include
        if requirement.colour is not None
        for each in found.get(requirement.name, [])[: requirement.count]
    }
    return [instance for instance in instances if id(instance.object) in wanted]


def _read(path: Path) -> Image.Image:
    try:
        return to_rgb(open_image(path))
    except (ImageError, BadSample, OSError) as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from None


def _values(each: DetectedObject) -> dict[str, Any]:
    colour = {} if each.colour is None else {"color": each.colour}
    return {"class": each.name, "box": list(each.box), "score": each.score, **colour}
