"""The detector: what it finds in true images, in disturbed ones, and in images that show something else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from janus_train.data.scene_things import NUM_SCENE_THINGS
from janus_train.data.scenes import BACKGROUNDS, Placed, Scene, held_out_scenes, library, render
from janus_train.evaluate.detector import LAYOUTS, border_colour, detector_of, nearest_background
from janus_train.evaluate.measures import judge


@pytest.fixture(scope="module")
def objects(object_shards):
    return library(tuple(object_shards))


@pytest.fixture(scope="module")
def detector(objects):
    return detector_of(objects)


@pytest.fixture(scope="module")
def scenes(object_shards):
    return held_out_scenes(object_shards, 120)


def accuracy(detector, objects, scenes, disturb=lambda image: image, size=64):
    """Share right of each measure."""
    judged = [judge(scene, detector.detect(disturb(render(scene, objects, size)))) for scene in scenes]
    pooled = {name: [right for one in judged for right in one[name]] for name in judged[0]}
    return {name: sum(rights) / len(rights) for name, rights in pooled.items()}


def noisy(image):
    """A third of the resolution, and noise: about what a small VQ tokenizer leaves."""
    small = image.resize((24, 24), Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)
    pixels = np.asarray(small, np.float32) + np.random.default_rng(0).normal(0, 8, (*image.size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_true_images(detector, objects, scenes):
    found = accuracy(detector, objects, scenes)
    assert found["background"] == 1.0
    assert found["count"] >= 0.97 and found["side"] >= 0.95
    assert found["object"] >= 0.97 and found["object_near"] >= found["object"]


@pytest.mark.parametrize("disturb", [noisy, lambda p: p.filter(ImageFilter.GaussianBlur(1.2))])
def test_disturbed_images(detector, objects, scenes, disturb):
    found = accuracy(detector, objects, scenes, disturb)
    assert found["background"] == 1.0
    assert found["count"] >= 0.95 and found["side"] >= 0.95 and found["object"] >= 0.85


def test_images_of_another_size(detector, objects, scenes):
    found = accuracy(detector, objects, scenes[:24], size=128)
    assert found["background"] == 1.0 and found["count"] >= 0.9 and found["object"] >= 0.9


def test_wrong_images_are_found_wrong(detector, objects, scenes):
    """Every scene against the image of the next one: only luck is right."""
    images = [render(scene, objects) for scene in scenes[1:] + scenes[:1]]
    judged = [judge(scene, detector.detect(image)) for scene, image in zip(scenes, images, strict=True)]
    pooled = {name: [right for one in judged for right in one[name]] for name in judged[0]}
    # a wrong scene has the right object at its place once in as many as there are; three times that is more than luck
    assert sum(pooled["object"]) <= 3 * len(pooled["object"]) / NUM_SCENE_THINGS
    assert sum(pooled["background"]) / len(scenes) < 0.35
    assert sum(pooled["count"]) / len(scenes) < 0.6
    assert sum(pooled["side"]) / len(pooled["side"]) < 0.6


def test_mirrored_images_have_the_wrong_side(detector, objects, scenes):
    sided = [scene for scene in scenes if judge(scene, detector.detect(render(scene, objects)))["side"] == [True]]
    assert len(sided) >= 20
    mirrored = [detector.detect(render(scene, objects).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for scene in sided]
    right = [judge(scene, detection)["side"][0] for scene, detection in zip(sided, mirrored, strict=True)]
    assert sum(right) / len(right) <= 0.05


def test_an_empty_image_has_nothing(detector):
    found = detector.detect(Image.new("RGB", (64, 64), BACKGROUNDS["green"]))
    assert found.background == "green" and found.found == ()


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


def test_right_object_at_a_wrong_place_still_counts_as_object(detector, objects):
    thing = objects.things[5]
    asked = Scene((Placed(thing, "left", 16, 32, 28, "small"),), "blue")
    drawn = Scene((Placed(thing, "right", 48, 32, 28, "small"),), "blue")
    judged = judge(asked, detector.detect(render(drawn, objects)))
    assert judged["background"] == judged["count"] == judged["object"] == judged["object_near"] == [True]
    assert judged["side"] == judged["side_one"] == [False] and judged["side_two"] == []


def test_one_drawn_object_cannot_be_two(detector, objects):
    """Two named, one drawn: one of them is right, at most."""
    thing = objects.things[5]
    two = Scene((Placed(thing, "left", 16, 32, 29), Placed(thing, "right", 48, 32, 29)), "blue")
    one = Scene((Placed(thing, "left", 16, 32, 28, "small"),), "blue")
    judged = judge(two, detector.detect(render(one, objects)))
    assert judged["object"] == [True, False] and judged["count"] == [False] and judged["side"] == [False]


def test_layouts_are_those_of_the_scenes(scenes):
    known = {tuple((slot.place, slot.side) for slot in layout) for layout in LAYOUTS}
    assert {tuple((placed.place, placed.side) for placed in scene.placed) for scene in scenes} <= known
    by_layout = {tuple((slot.place, slot.side) for slot in layout): layout for layout in LAYOUTS}
    for scene in scenes:
        slots = by_layout[tuple((placed.place, placed.side) for placed in scene.placed)]
        assert all(abs(s.x - p.x) <= 1 and abs(s.y - p.y) <= 1 for s, p in zip(slots, scene.placed, strict=True))
