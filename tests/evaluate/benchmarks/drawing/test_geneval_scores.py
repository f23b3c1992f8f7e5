"""GenEval's score is the mean over the tasks, not over the images."""

from __future__ import annotations

import pytest

from janus_train.evaluate.benchmarks.drawing.geneval_files import JudgedImage
from janus_train.evaluate.benchmarks.drawing.geneval_prompts import TAGS, GenevalPrompt
from janus_train.evaluate.benchmarks.drawing.geneval_scores import gaps, geneval_scores

PROMPTS = [GenevalPrompt(tag, "a prompt", (), (), {}) for tag in TAGS]


def images(**right_and_wrong: tuple[int, int]) -> list[JudgedImage]:
    return [
        JudgedImage("", tag, number < right)
        for tag, (right, wrong) in right_and_wrong.items()
        for number in range(right + wrong)
    ]


def test_every_task_weighs_the_same() -> None:
    judged = images(
        color_attr=(1, 3), single_object=(8, 0), two_object=(1, 1), counting=(0, 2), colors=(3, 1), position=(0, 4)
    )
    overall, *by_tag, pooled = geneval_scores(judged)
    assert overall.value == pytest.approx((100 + 50 + 0 + 75 + 0 + 25) / 6)
    assert [score.group for score in by_tag] == list(TAGS)
    assert (pooled.right, pooled.n, pooled.group) == (13, 24, "all images")
    single = by_tag[0]
    # Wilson's interval of 8 of 8 begins at 1 / (1 + 1.96^2 / 8)
    assert (single.low, single.high) == (pytest.approx(100 / (1 + 1.959964**2 / 8), abs=1e-4), 100.0)
    assert gaps(judged, PROMPTS) == []


def test_what_was_not_judged_is_said() -> None:
    judged = images(single_object=(3, 1), position=(1, 2))
    assert geneval_scores(judged)[0].value == pytest.approx((75 + 100 / 3) / 2)
    assert gaps(judged, PROMPTS) == [
        "7 of 24 images are judged",
        "the mean is over 2 of six tasks: no image of two_object, counting, colors, color_attr is judged",
    ]


def test_who_judged_stands_in_every_name() -> None:
    assert {score.name for score in geneval_scores(images(colors=(1, 0)), "by me")} == {
        "mean over the tasks (by me)",
        "right images (by me)",
    }
