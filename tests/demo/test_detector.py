"""The detector: what it finds in true images, in disturbed ones, and in images that show something else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageFilter

from janus_train.demo.detector import LARGE, SMALL, Slot, detector_of
from janus_train.demo.measures import judge
from janus_train.demo.objects import (
    BACKGROUNDS,
    CARD,
    CELL,
    NEUTRAL,
    PLACES,
    PLACES_OF_COUNT,
    SIDES,
    UNIT,
    PlacedObject,
    Scene,
    center_of,
    load_library,
)
from janus_train.demo.scenes import class_scene, held_out_scenes, render

CELLS = UNIT // CELL


@pytest.fixture(scope="module")
def library(object_shards):
    return load_library(tuple(object_shards))


@pytest.fixture(scope="module")
def detector(library):
    return detector_of(library)


@pytest.fixture(scope="module")
def scenes(object_shards):
    return held_out_scenes(object_shards, 120)


def accuracy(detector, scenes, images):
    """Share right of each measure."""
    judgements = [judge(scene, detector.detect(image)) for scene, image in zip(scenes, images, strict=True)]
    pooled_judgements = {name: list(itertools.chain(*(each[name] for each in judgements))) for name in judgements[0]}
    return {name: sum(rights) / len(rights) for name, rights in pooled_judgements.items()}


def noise(image, deviation=8.0):
    pixels = np.asarray(image, np.float32) + np.random.default_rng(0).normal(0, deviation, (*image.size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def coarse(image):
    """Half of the resolution, and noise: less than a small VQ tokenizer leaves."""
    return noise(image.resize((UNIT // 2, UNIT // 2), Image.Resampling.BICUBIC).resize(image.size))


def soft(image):
    return noise(image.filter(ImageFilter.GaussianBlur(1.2)), 4)


def put_cell(image, cell, other_image, other_cell):
    """Replace a cell (row, column) by a cell of another image."""
    row, column = (CELL * index for index in other_cell)
    part = other_image.crop((column, row, column + CELL, row + CELL))
    image.paste(part, (cell[1] * CELL, cell[0] * CELL))


def one_object(library, background="blue", place="left", size_word="small", number=0):
    side = SIDES[size_word]
    scene_object = library.scene_objects[number]
    return Scene((PlacedObject(scene_object, place, *center_of(place, side), side, size_word),), background)


def small_objects(library, places, numbers, background="blue"):
    side = SIDES["small"]
    objects = (library.scene_objects[number] for number in numbers)
    return Scene(
        tuple(PlacedObject(o, p, *center_of(p, side), side) for o, p in zip(objects, places, strict=True)), background
    )


def test_everything_in_true_images_is_found(detector, library, scenes):
    assert set(accuracy(detector, scenes, [render(scene, library) for scene in scenes]).values()) == {1.0}


@pytest.mark.parametrize("size_word", SIDES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_place_on_every_background(detector, library, background, size_word):
    scenes = [one_object(library, background, place, size_word, n) for n, place in enumerate(PLACES)]
    assert accuracy(detector, scenes, [render(scene, library) for scene in scenes])["all"] == 1.0


@pytest.mark.parametrize("disturb", [coarse, soft, noise])
def test_disturbed_images(detector, library, scenes, disturb):
    rates = accuracy(detector, scenes, [disturb(render(scene, library)) for scene in scenes])
    assert rates["background"] == rates["count"] == rates["place"] == 1.0
    assert rates["object"] >= 0.98 and rates["all"] >= 0.97


@pytest.mark.parametrize("size", [64, 128, 384])
def test_images_of_another_size(detector, library, scenes, size):
    rates = accuracy(detector, scenes[:24], [render(scene, library, size) for scene in scenes[:24]])
    assert rates["background"] == rates["count"] == rates["place"] == 1.0 and rates["object"] >= 0.98


def test_one_wrong_cell_anywhere_changes_neither_count_nor_places_nor_background(detector, library, scenes):
    """A cell from anywhere in another scene: background, a part of a card, or a corner of one."""
    rng = np.random.default_rng(0)
    images = [render(scene, library) for scene in scenes]
    wrong_images = []
    for image in images:
        wrong_image = image.copy()
        put_cell(
            wrong_image, rng.integers(CELLS, size=2), images[rng.integers(len(images))], rng.integers(CELLS, size=2)
        )
        wrong_images.append(wrong_image)
    assert sum(a.tobytes() != b.tobytes() for a, b in zip(images, wrong_images, strict=True)) > 60
    for disturb in (lambda image: image, soft):
        rates = accuracy(detector, scenes, [disturb(image) for image in wrong_images])
        assert rates["background"] == rates["count"] == rates["place"] == 1.0 and rates["object"] >= 0.97


@pytest.mark.parametrize("size_word", SIDES)
def test_a_background_cell_in_a_card_is_still_the_card(detector, library, size_word):
    scene = one_object(library, "yellow", "top", size_word, 7)
    rows, columns = Slot("top", SIDES[size_word]).cells
    for cell in itertools.product(range(rows.start, rows.stop), range(columns.start, columns.stop)):
        image = render(scene, library)
        put_cell(image, cell, image.copy(), (CELLS - 1, 0))
        judgements = judge(scene, detector.detect(image))
        assert judgements["count"] == judgements["place"] == judgements["background"] == [True]


def test_a_part_of_a_card_on_the_background_is_no_card(detector, library):
    scene, other = one_object(library, "red", "top left"), render(one_object(library, "red", "bottom right"), library)
    image = render(scene, library)
    put_cell(image, (4, 5), other, (4, 4))
    detection = detector.detect(image)
    assert detection.places == ("top left",) and detection.background == "red"


def test_four_cards_in_the_corners_leave_the_background(detector, library):
    for background in BACKGROUNDS:
        scene = small_objects(library, PLACES_OF_COUNT[4][0], (3, 5, 8, 13), background)
        assert judge(scene, detector.detect(render(scene, library)))["all"] == [True]


def test_arrangements_that_no_scene_has_are_found_too(detector, library):
    for places in (("top left", "right", "bottom"), PLACES[:5], PLACES):
        scene = small_objects(library, places, range(len(places)), "green")
        detection = detector.detect(render(scene, library))
        assert set(detection.places) == set(places) and len(detection.objects) == len(places)


def test_wrong_images_are_found_wrong(detector, library, scenes):
    """Every scene against the image of the next one: only luck is right."""
    rates = accuracy(detector, scenes, [render(scene, library) for scene in scenes[1:] + scenes[:1]])
    # a wrong scene has the right object at its place once in as many as there are; three times that is more than luck
    assert rates["object"] <= 3 / len(library.scene_objects)
    assert rates["background"] < 0.35 and rates["count"] < 0.6 and rates["place"] < 0.3 and rates["all"] == 0.0


def test_mirrored_images_have_wrong_places(detector, library, scenes):
    sided_scenes = [
        scene for scene in scenes if {p.place for p in scene.objects} & {"top left", "left"} and len(scene.objects) == 1
    ]
    assert len(sided_scenes) >= 5
    images = [render(scene, library).transpose(Image.Transpose.FLIP_LEFT_RIGHT) for scene in sided_scenes]
    rates = accuracy(detector, sided_scenes, images)
    assert rates["place"] == rates["all"] == 0.0 and rates["count"] == rates["background"] == 1.0


@pytest.mark.parametrize("disturb", [lambda image: image, noise])
def test_an_empty_image_has_nothing(detector, disturb):
    for name, rgb in BACKGROUNDS.items():
        detection = detector.detect(disturb(Image.new("RGB", (UNIT, UNIT), rgb)))
        assert detection.background == name and detection.objects == ()
        assert detection.at("middle") is None


def test_other_colours_are_no_background_and_no_card(detector):
    for rgb in [(128, 128, 128), (200, 200, 204), (230, 230, 230), (100, 60, 20), (220, 210, 190), NEUTRAL]:
        detection = detector.detect(Image.new("RGB", (UNIT, UNIT), rgb))
        assert detection.background is None and detection.objects == ()


def test_the_cards_colour_alone_is_no_card(detector):
    assert detector.detect(Image.new("RGB", (UNIT, UNIT), CARD)).objects == ()


def test_pixels_at_random_are_nothing(detector):
    pixels = np.random.default_rng(0).integers(0, 256, (UNIT, UNIT, 3), np.uint8)
    detection = detector.detect(Image.fromarray(pixels))
    assert detection.background is None and detection.objects == ()


def test_a_card_on_no_background_is_found(detector, library):
    for size_word in SIDES:
        detection = detector.detect(render(class_scene(library.scene_objects[4], size_word), library))
        assert detection.background is None and detection.places == ("middle",)
        assert detection.objects[0].side == SIDES[size_word]
        assert detection.objects[0].number == library.scene_objects[4].number


def test_all_objects_of_the_library_are_candidates(detector, library):
    """Not only those of scenes: an object that no scene has is found as itself."""
    others = [each for each in library.objects if each not in library.scene_objects][:30]
    scenes = [Scene((PlacedObject(each, "top", 48, 16, 32, "small"),), "blue") for each in others]
    assert accuracy(detector, scenes, [render(scene, library) for scene in scenes])["object"] >= 0.95
    assert detector.num_objects == len(library.objects) > len(library.scene_objects)


def test_small_slots_tile_the_image_and_large_ones_overlap():
    covered = np.zeros((UNIT, UNIT), int)
    for slot in SMALL:
        covered[slot.pixels] += 1
    assert (covered == 1).all()
    for slot in (*SMALL, *LARGE):
        assert all(part.start % CELL == part.stop % CELL == 0 for part in slot.pixels)
    assert sorted(len(slot.beside()) for slot in LARGE) == [0, *[3] * 4, *[5] * 4]
