"""DPG-Bench's scores from the answers.

A question counts as wrong if the answer to it is not yes, or if one of its parents counts as wrong: a cat that is not there
is not black either. An image's score is its share of right questions, a prompt's the mean of its images', and the benchmark's
the mean over the prompts. Categories count the answers themselves, without parents.

The published script takes for the categories only the last image of each prompt. Both are computed: ``all images``, and
``as the published script`` for comparison with published tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from janus_train.evaluate.benchmarks.drawing.dpg_answers import SAMPLES, DpgAnswers, ImageAnswers
from janus_train.evaluate.benchmarks.drawing.dpg_prompts import DpgPrompt, Question
from janus_train.evaluate.benchmarks.result import Score, share_of

ALL_IMAGES, LAST_IMAGE = "right answers, all images", "right answers, as the published script (last image)"


def right_questions(questions: Sequence[Question], answers: ImageAnswers) -> dict[int, bool]:
    """Returns by number whether each question about one image counts as right.

    Questions are decided in the file's order, where parents come first: so a wrong grandparent counts too.
    """
    right = dict(answers)
    for question in questions:
        right[question.number] = right[question.number] and all(right[parent] for parent in question.parents)
    return right


def dpg_scores(prompts: Mapping[str, DpgPrompt], answers: DpgAnswers) -> tuple[Score, ...]:
    """Returns the overall score in percent, then each wide and each narrow category's in both ways."""
    prompt_scores = []
    all_images: dict[str, list[bool]] = {}
    last_image: dict[str, list[bool]] = {}
    for key, images in answers.complete.items():
        questions = prompts[key].questions
        shares = [sum(right_questions(questions, images[image]).values()) / len(questions) for image in images]
        prompt_scores.append(sum(shares) / len(shares))
        for question in questions:
            for group in {question.wide_category, question.category}:
                all_images.setdefault(group, []).extend(of_image[question.number] for of_image in images.values())
                last_image.setdefault(group, []).append(images[max(images)][question.number])
    overall = Score("mean over the prompts", 100 * sum(prompt_scores) / len(prompt_scores), n=len(prompt_scores))
    groups = sorted(all_images)
    return (
        overall,
        *(share_of(ALL_IMAGES, sum(all_images[group]), len(all_images[group]), group) for group in groups),
        *(share_of(LAST_IMAGE, sum(last_image[group]), len(last_image[group]), group) for group in groups),
    )


def gaps(prompts: Mapping[str, DpgPrompt], answers: DpgAnswers) -> list[str]:
    """Says what keeps a score from being DPG-Bench's: prompts left out, which the published script leaves out in silence."""
    lines = []
    if answers.incomplete:
        lines.append(
            f"{len(answers.incomplete)} prompts are left out, because some of their questions were not answered: "
            f"{_some(answers.incomplete)}"
        )
    unanswered = sorted(prompts.keys() - answers.complete.keys() - set(answers.incomplete))
    if unanswered:
        lines.append(f"{len(unanswered)} prompts are left out, because they have no answers: {_some(unanswered)}")
    fewer = sorted(key for key, images in answers.complete.items() if len(images) < SAMPLES)
    if fewer:
        lines.append(f"{len(fewer)} prompts have answers about fewer than {SAMPLES} images: {_some(fewer)}")
    return lines


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (" and others" if len(keys) > 3 else "")
