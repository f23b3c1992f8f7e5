"""DPG-Bench's tree and means on invented answers, worked out by hand."""

from __future__ import annotations

import pytest

from janus_train.evaluate.benchmarks.drawing.dpg_answers import DpgAnswers
from janus_train.evaluate.benchmarks.drawing.dpg_prompts import DpgPrompt, Question
from janus_train.evaluate.benchmarks.drawing.dpg_scores import ALL_IMAGES, LAST_IMAGE, dpg_scores, gaps, right_questions

CAT = (
    Question(1, (), "entity - whole", "a cat?"),
    Question(2, (1,), "attribute - color", "black?"),
    Question(3, (2,), "attribute - state", "a shining black?"),
    Question(4, (), "global", "a photo?"),
    Question(5, (1, 4), "attribute - color", "grey?"),
)
PROMPTS = {
    "cat": DpgPrompt("cat", "A cat.", CAT),
    "dog": DpgPrompt("dog", "A dog.", (Question(1, (), "entity - whole", "a dog?"),)),
}


def answers(*values: int) -> dict[int, bool]:
    return {number: bool(value) for number, value in enumerate(values, 1)}


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
        ((0, 1, 1, 1, 1), (0, 0, 0, 1, 0)),  # no cat: neither black, nor of a shining black, nor grey
        ((1, 0, 1, 1, 1), (1, 0, 0, 1, 1)),
        ((1, 1, 1, 0, 1), (1, 1, 1, 0, 0)),  # one of two parents is enough
        ((1, 0, 0, 1, 0), (1, 0, 0, 1, 0)),
    ],
)
def test_a_question_is_wrong_with_its_parent(given: tuple[int, ...], right: tuple[int, ...]) -> None:
    assert right_questions(CAT, answers(*given)) == answers(*right)


def test_a_parent_that_comes_later_counts_by_its_own_answer() -> None:
    """As in the published script, which goes through the questions once."""
    questions = (Question(2, (1,), "a", "?"), Question(1, (3,), "a", "?"), Question(3, (), "a", "?"))
    assert right_questions(questions, {2: True, 1: True, 3: False}) == {2: True, 1: False, 3: False}


def test_scores_are_means_over_images_and_then_prompts() -> None:
    read = DpgAnswers(
        {
            "cat": {
                0: answers(1, 1, 1, 1, 1),  # 5 of 5
                1: answers(0, 1, 1, 1, 1),  # 1 of 5
                2: answers(1, 0, 0, 1, 1),  # 3 of 5
                3: answers(1, 0, 1, 0, 0),  # 1 of 5
            },
            "dog": {0: answers(1), 1: answers(0), 2: answers(1), 3: answers(1)},  # 3 of 4
        },
        (),
    )
    scores = dpg_scores(PROMPTS, read)
    assert scores[0].value == pytest.approx(100 * ((1 + 0.2 + 0.6 + 0.2) / 4 + 0.75) / 2) and scores[0].n == 2
    by_name = {(score.name, score.group): (score.right, score.n) for score in scores[1:]}
    # categories count the answers themselves: 4 images of black and 4 of grey, then the last image alone
    assert by_name[ALL_IMAGES, "attribute - color"] == (2 + 3, 8)
    assert by_name[LAST_IMAGE, "attribute - color"] == (0, 2)
    assert by_name[ALL_IMAGES, "attribute"] == (2 + 3 + 3, 12) and by_name[LAST_IMAGE, "attribute"] == (1, 3)
    assert by_name[ALL_IMAGES, "entity"] == (3 + 3, 8) and by_name[LAST_IMAGE, "entity"] == (2, 2)
    assert by_name[ALL_IMAGES, "global"] == (3, 4) and by_name[LAST_IMAGE, "global"] == (0, 1)
    assert len(by_name) == 2 * len(
        {"entity", "entity - whole", "attribute", "attribute - color", "attribute - state", "global"}
    )
    assert gaps(PROMPTS, read) == []


def test_what_is_left_out_is_said() -> None:
    some = {f"p{n}": DpgPrompt(f"p{n}", "A dog.", PROMPTS["dog"].questions) for n in range(6)}
    read = DpgAnswers({"p0": {n: answers(1) for n in range(4)}, "p1": {0: answers(0)}}, ("p2",))
    assert dpg_scores(some, read)[0].value == 50.0
    assert gaps(some, read) == [
        "1 prompts are left out, because some of their questions were not answered: p2",
        "3 prompts are left out, because they have no answers: p3, p4, p5",
        "1 prompts have answers about fewer than 4 images: p1",
    ]
    assert gaps(some, DpgAnswers(read.complete, ("p2", "p3", "p4", "p5")))[0].endswith("p2, p3, p4 and others")
