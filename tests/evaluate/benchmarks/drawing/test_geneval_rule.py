"""GenEval's rule on invented detections; what is right was worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.drawing.geneval_prompts import GenevalPrompt, Requirement
from janus_train.evaluate.benchmarks.drawing.geneval_rule import DetectedObject, confident_objects, judge, relations_of


def prompt(tag: str, *include: Requirement, exclude: tuple[Requirement, ...] = ()) -> GenevalPrompt:
    return GenevalPrompt(tag, "a prompt", include, exclude, {})


def found(name: str, score: float = 0.95, at: tuple[float, float] = (50, 50), size: float = 20, **values: Any):
    """A square object around a point."""
    x, y = at
    return DetectedObject(name, (x - size / 2, y - size / 2, x + size / 2, y + size / 2), score, **values)


DOG, CAT = Requirement("dog", 1), Requirement("cat", 1)
TWO_DOGS = prompt("counting", Requirement("dog", 2), exclude=(Requirement("dog", 3),))


@pytest.mark.parametrize(("score", "correct"), [(0.3, False), (0.301, True), (0.95, True)])
def test_an_object_counts_above_a_confidence_of_three_tenths(score: float, correct: bool) -> None:
    assert judge(prompt("single_object", DOG), [found("dog", score)]).correct is correct


def test_another_object_does_not_disturb() -> None:
    assert judge(prompt("single_object", DOG), [found("dog"), found("cat"), found("dog")]).correct
    judgement = judge(prompt("two_object", DOG, CAT), [found("dog"), found("dog")])
    assert not judgement.correct and judgement.reasons == ("cat: 1 expected, 0 found",)
    assert judge(prompt("two_object", DOG, CAT), [found("cat"), found("dog")]).correct


@pytest.mark.parametrize(
    ("scores", "correct"),
    [
        ((0.95, 0.95), True),
        ((0.95, 0.9), False),  # 0.9 is not above 0.9
        ((0.95, 0.95, 0.89), True),  # the third does not count
        ((0.95, 0.95, 0.91), False),  # one too many
        ((0.95,), False),
    ],
)
def test_counting_takes_what_is_nearly_certain_and_refuses_too_many(scores: tuple[float, ...], correct: bool) -> None:
    assert judge(TWO_DOGS, [found("dog", score) for score in scores]).correct is correct


def test_at_most_sixteen_objects_of_a_class_count() -> None:
    dogs = [found("dog", 0.4 + number / 100) for number in range(20)]
    kept = confident_objects("single_object", [*dogs, found("cat", 0.31)])
    assert [round(each.score, 2) for each in kept["dog"]] == [round(0.59 - n / 100, 2) for n in range(16)]
    assert len(kept["cat"]) == 1
    seventeen = prompt("single_object", Requirement("dog", 17))
    assert judge(seventeen, dogs).reasons == ("dog: 17 expected, 16 found",)


@pytest.mark.parametrize(
    ("at", "relations"),
    [
        ((30, 50), {"left of"}),  # 20 apart, a margin of 0.1 * (20 + 20) = 4: 16 of 20 are left of it
        ((70, 50), {"right of"}),
        ((50, 30), {"above"}),  # y grows downwards
        ((50, 70), {"below"}),
        ((46, 50), set()),  # 4 apart: the margin
        ((41, 50), {"left of"}),  # 9 apart: 5 of 9 is more than a half
        ((42.5, 50), set()),  # 7.5 apart: 3.5 of 7.5 is less
        ((30, 30), {"left of", "above"}),  # 16 of 28.3 in both directions
        ((30, 38), {"left of"}),  # 8 of 23.3 above is too little
        ((50, 50), set()),
    ],
)
def test_a_position_is_that_of_the_centres_beyond_a_margin(at: tuple[float, float], relations: set[str]) -> None:
    assert relations_of(found("dog", at=at), found("cat")) == relations


def test_the_margin_grows_with_both_sizes_along_the_axis() -> None:
    dog = DetectedObject("dog", (0, 0, 100, 10), 0.9)  # centre 50, 5
    cat = DetectedObject("cat", (60, 0, 100, 10), 0.9)  # centre 80, 5: 30 apart, the margin is 0.1 * 140 = 14, 16 of 30
    assert relations_of(dog, cat) == {"left of"}
    wide = DetectedObject("cat", (50, 0, 110, 10), 0.9)  # the margin is 0.1 * 160 = 16: 14 of 30 is less than a half
    assert relations_of(dog, wide) == set()


def test_a_position_is_judged_on_the_most_confident_objects() -> None:
    left = prompt("position", CAT, Requirement("dog", 1, relation="left of", target=0))
    dogs = [found("dog", 0.9, at=(20, 50)), found("dog", 0.8, at=(90, 50))]
    assert judge(left, [found("cat"), *dogs]).correct
    other = [found("dog", 0.8, at=(20, 50)), found("dog", 0.9, at=(90, 50))]
    assert judge(left, [found("cat"), *other]).reasons == ("dog: left of cat expected, right of found",)
    assert judge(left, dogs).reasons == ("cat: 1 expected, 0 found", "dog: nothing there to be left of")
    assert judge(left, [found("cat"), found("dog")]).reasons == ("dog: left of cat expected, at the same place found",)


def test_each_of_several_has_to_be_at_its_place() -> None:
    left = prompt("position", Requirement("cat", 2), Requirement("dog", 1, relation="left of", target=0))
    cats = [found("cat", 0.9, at=(60, 50)), found("cat", 0.9, at=(90, 50))]
    assert judge(left, [*cats, found("dog", at=(20, 50))]).correct
    assert not judge(left, [*cats, found("dog", at=(75, 50))]).correct


def test_a_colour_is_that_of_the_most_confident_objects() -> None:
    red = prompt("colors", Requirement("dog", 1, colour="red"))
    assert judge(red, [found("dog", 0.9, colour="red"), found("dog", 0.8, colour="blue")]).correct
    wrong = judge(red, [found("dog", 0.8, colour="red"), found("dog", 0.9, colour="blue")])
    assert wrong.reasons == ("dog: red expected, blue found",)
    both = prompt("color_attr", Requirement("dog", 1, colour="red"), Requirement("cat", 1, colour="blue"))
    assert judge(both, [found("dog", colour="red"), found("cat", colour="blue")]).correct
    swapped = judge(both, [found("dog", colour="blue"), found("cat", colour="red")])
    assert swapped.reasons == ("dog: red expected, blue found", "cat: blue expected, red found")


def test_an_object_of_unknown_colour_is_an_error_only_where_it_decides() -> None:
    assert judge(prompt("single_object", DOG), [found("dog")]).correct
    with pytest.raises(UserError, match=r"the dog with score 0\.95 has no color, which the prompt asks for"):
        judge(prompt("colors", Requirement("dog", 1, colour="red")), [found("dog")])
