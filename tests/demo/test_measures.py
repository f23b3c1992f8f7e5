"""Measures with their targets, and what is judged right in an image."""

from __future__ import annotations

import pytest

from janus_train.demo.detector import DetectedObject, Detection
from janus_train.demo.measures import commonest, judge, measure
from janus_train.demo.objects import PLACES_OF_COUNT, SIDES, PlacedObject, Scene, center_of, load_library


def test_nothing_measured():
    assert measure("background", "generation", [], 12.5)["reached"] is False


def test_commonest_answer():
    assert commonest(["a", "b", "a", "c"]) == 50.0
    assert commonest([]) == 0.0


def test_a_target_is_reached_by_its_percentage():
    nearly = [True] * 96 + [False] * 4
    assert measure("background", "generation", nearly, 12.5)["reached"] is False
    assert measure("count", "generation", nearly, 40.0)["reached"] is True
    assert measure("count", "generation", nearly, 40.0)["asked"] == {"percent": 95.0}
    assert "reached" not in measure("answer_relation", "understanding", [True], 2.5)


RIGHT = {name: [True] for name in ("background", "count", "place", "all")}


def objects_of(library, *numbers):
    return [library.scene_objects[number] for number in numbers]


def scene_of(objects, places, size_word="", background="blue"):
    side = SIDES[size_word or "small"]
    return Scene(
        tuple(
            PlacedObject(scene_object, place, *center_of(place, side), side, size_word)
            for scene_object, place in zip(objects, places, strict=True)
        ),
        background,
    )


def detection_of(scene):
    """What a detector without mistakes finds in the scene's image."""
    found = (DetectedObject(each.place, each.side, each.object.number) for each in scene.objects)
    return Detection(scene.background, tuple(found))


@pytest.fixture(scope="module")
def library(object_shards):
    return load_library(tuple(object_shards))


def test_the_scene_itself_is_right_in_any_order(library):
    scene = scene_of(objects_of(library, 1, 2, 3), PLACES_OF_COUNT[3][0])
    reversed_scene = Scene(scene.objects[::-1], scene.background)
    assert judge(scene, detection_of(reversed_scene)) == {**RIGHT, "object": [True] * 3}


def test_swapped_objects_are_wrong_where_the_rest_is_right(library):
    places = ("left", "right")
    asked, drawn = (scene_of(objects_of(library, *numbers), places) for numbers in ((1, 2), (2, 1)))
    assert judge(asked, detection_of(drawn)) == {**RIGHT, "object": [False, False], "all": [False]}


def test_one_wrong_object_among_four(library):
    places = PLACES_OF_COUNT[4][0]
    asked, drawn = (scene_of(objects_of(library, *numbers), places) for numbers in ((1, 2, 3, 4), (1, 2, 3, 5)))
    assert judge(asked, detection_of(drawn)) == {**RIGHT, "object": [True, True, True, False], "all": [False]}


def test_another_background_or_size_is_not_everything(library):
    asked = scene_of(objects_of(library, 1), ("middle",), "small")
    grey = scene_of(objects_of(library, 1), ("middle",), "small", background="")
    assert judge(asked, detection_of(grey)) == {**RIGHT, "object": [True], "background": [False], "all": [False]}
    large = scene_of(objects_of(library, 1), ("middle",), "large")
    assert judge(asked, detection_of(large)) == {**RIGHT, "object": [True], "all": [False]}


def test_a_right_object_at_a_wrong_place_still_counts_as_object(library):
    asked, drawn = (scene_of(objects_of(library, 1), (place,), "small") for place in ("left", "right"))
    assert judge(asked, detection_of(drawn)) == {**RIGHT, "object": [True], "place": [False], "all": [False]}


def test_one_drawn_object_cannot_be_two(library):
    """Two twins named, one drawn: one of them is right, at most."""
    twins = scene_of(objects_of(library, 1, 1), ("left", "right"))
    assert judge(twins, detection_of(twins)) == {**RIGHT, "object": [True, True]}
    one = scene_of(objects_of(library, 1), ("left",), "small")
    judgements = judge(twins, detection_of(one))
    assert judgements["object"] == [True, False]
    assert judgements["count"] == judgements["place"] == judgements["all"] == [False]


def test_one_card_too_many_is_not_everything(library):
    asked = scene_of(objects_of(library, 1), ("left",), "small")
    drawn = scene_of(objects_of(library, 1, 2), ("left", "right"))
    judgements = judge(asked, detection_of(drawn))
    assert judgements["object"] == [True]
    assert judgements["count"] == judgements["place"] == judgements["all"] == [False]


def test_nothing_drawn(library):
    asked = scene_of(objects_of(library, 1, 2), ("left", "right"))
    judgements = judge(asked, Detection("blue", ()))
    assert judgements["object"] == [False, False] and judgements["background"] == [True]
    assert judgements["count"] == judgements["place"] == judgements["all"] == [False]
