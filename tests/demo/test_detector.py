"""The detector: what it finds in true images, in disturbed ones, and in images that show something else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from janus_train.demo.detector import LAYOUTS, border_colour, detector_of, nearest_background
from janus_train.demo.measures import judge
from janus_train.demo.objects import NUM_SCENE_OBJECTS
from janus_train.demo.scenes import BACKGROUNDS, PlacedObject, Scene, held_out_scenes, load_library, render


@pytest.fixture(scope="module")
def library(object_shards):
    return load_library(tuple(object_shards))


@pytest.fixture(scope="module")
def detector(library):
    return detector_of(library)


@pytest.fixture(scope="module")
def scenes(object_shards):
    return held_out_scenes(object_shards, 120)


def accuracy(detector, library, scenes, disturb=lambda image: image, size=64):
    """Share right of each measure."""
    judgements = [judge(scene, detector.detect(disturb(render(scene, library, size)))) for scene in scenes]
    pooled_judgements = {
        name: [judgement for image_judgements in judgements for judgement in image_judgements[name]]
        for name in judgements[0]
    }
    return {name: sum(rights) / len(rights) for name, rights in pooled_judgements.items()}


def noisy(image):
    """A third of the resolution, and noise: about what a small VQ tokenizer leaves."""
    small = image.resize((24, 24), Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)
    pixels = np.asarray(small, np.float32) + np.random.default_rng(0).normal(0, 8, (*image.size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_true_images(detector, library, scenes):
    detection = accuracy(detector, library, scenes)
    assert detection["background"] == 1.0
    assert detection["count"] >= 0.97 and detection["side"] >= 0.95
    assert detection["object"] >= 0.97 and detection["object_near"] >= detection["object"]


@pytest.mark.parametrize("disturb", [noisy, lambda p: p.filter(ImageFilter.GaussianBlur(1.2))])
def test_disturbed_images(detector, library, scenes, disturb):
    detection = accuracy(detector, library, scenes, disturb)
    assert detection["background"] == 1.0
    assert detection["count"] >= 0.95 and detection["side"] >= 0.95 and detection["object"] >= 0.85


def test_images_of_another_size(detector, library, scenes):
    detection = accuracy(detector, library, scenes[:24], size=128)
    assert detection["background"] == 1.0 and detection["count"] >= 0.9 and detection["object"] >= 0.9


def test_wrong_images_are_found_wrong(detector, library, scenes):
    """Every scene against the image of the next one: only luck is right."""
    images = [render(scene, library) for scene in scenes[1:] + scenes[:1]]
    judgements = [judge(scene, detector.detect(image)) for scene, image in zip(scenes, images, strict=True)]
    pooled_judgements = {
        name: [judgement for image_judgements in judgements for judgement in image_judgements[name]]
        for name in judgements[0]
    }
    # a wrong scene has the right object at its place once in as many as there are; three times that is more than luck
    assert sum(pooled_judgements["object"]) <= 3 * len(pooled_judgements["object"]) / NUM_SCENE_OBJECTS
    assert sum(pooled_judgements["background"]) / len(scenes) < 0.35
    assert sum(pooled_judgements["count"]) / len(scenes) < 0.6
    assert sum(pooled_judgements["side"]) / len(pooled_judgements["side"]) < 0.6


def test_mirrored_images_have_the_wrong_side(detector, library, scenes):
    right_scenes = [
        scene for scene in scenes if judge(scene, detector.detect(render(scene, library)))["side"] == [True]
    ]
    assert len(right_scenes) >= 20
    mirrored_detections = [
        detector.detect(render(scene, library).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for scene in right_scenes
    ]
    judgement = [
        judge(scene, detection)["side"][0] for scene, detection in zip(right_scenes, mirrored_detections, strict=True)
    ]
    assert sum(judgement) / len(judgement) <= 0.05


def test_an_empty_image_has_nothing(detector):
    detection = detector.detect(Image.new("RGB", (64, 64), BACKGROUNDS["green"]))
    assert detection.background == "green" and detection.objects == ()


def test_grey_is_no_background(detector):
    assert detector.detect(Image.new("RGB", (64, 64), (128, 128, 128))).background is None
    assert detector.detect(Image.new("RGB", (64, 64), (200, 200, 204))).background is None


def test_nearest_background_of_every_colour():
    for name, rgb in BACKGROUNDS.items():
        assert nearest_background(np.asarray(rgb, np.float32)) == name
        assert nearest_background(np.asarray(rgb, np.float32) * 0.9 + 8) == name


def test_border_colour_ignores_an_object_at_one_side():
    pixels = np.full((64, 64, 3), 30, np.float32)
    pixels[:, 50:] = 200
    assert border_colour(pixels).tolist() == [30, 30, 30]


def test_right_object_at_a_wrong_place_still_counts_as_object(detector, library):
    scene_object = library.objects[5]
    asked = Scene((PlacedObject(scene_object, "left", 16, 32, 28, "small"),), "blue")
    drawn = Scene((PlacedObject(scene_object, "right", 48, 32, 28, "small"),), "blue")
    judgements = judge(asked, detector.detect(render(drawn, library)))
    assert (
        judgements["background"] == judgements["count"] == judgements["object"] == judgements["object_near"] == [True]
    )
    assert judgements["side"] == judgements["side_one"] == [False] and judgements["side_two"] == []


def test_one_drawn_object_cannot_be_two(detector, library):
    """Two named, one drawn: one of them is right, at most."""
    scene_object = library.objects[5]
    scene_of_two = Scene(
        (PlacedObject(scene_object, "left", 16, 32, 29), PlacedObject(scene_object, "right", 48, 32, 29)), "blue"
    )
    scene_of_one = Scene((PlacedObject(scene_object, "left", 16, 32, 28, "small"),), "blue")
    judgements = judge(scene_of_two, detector.detect(render(scene_of_one, library)))
    assert judgements["object"] == [True, False] and judgements["count"] == [False] and judgements["side"] == [False]


def test_layouts_are_those_of_the_scenes(scenes):
    layouts = {tuple((slot.place, slot.side) for slot in layout) for layout in LAYOUTS}
    assert {
        tuple((placed_object.place, placed_object.side) for placed_object in scene.objects) for scene in scenes
    } <= layouts
    by_layout = {tuple((slot.place, slot.side) for slot in layout): layout for layout in LAYOUTS}
    for scene in scenes:
        slots = by_layout[tuple((placed_object.place, placed_object.side) for placed_object in scene.objects)]
        assert all(abs(s.x - p.x) <= 1 and abs(s.y - p.y) <= 1 for s, p in zip(slots, scene.objects, strict=True))
