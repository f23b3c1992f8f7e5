"""CIDEr-D against values computed by hand, and against those of the program that published figures use."""

from __future__ import annotations

import math

import pytest

from janus_train.evaluate.own_data.cider import cider_d


def test_the_true_caption_has_the_whole_score_and_a_foreign_one_none() -> None:
    references = [["a red dog runs fast"], ["two blue birds sit here"]]
    assert cider_d(["A red dog runs fast.", "nothing of that"], references) == pytest.approx([10.0, 0.0])


def test_by_hand() -> None:
    """Two images. "red" is in one image's captions, weight log 2; "cat" is in both, weight 0."""
    scores = cider_d(["red cat", "red cat"], [["red cat"], ["cat"]])
    # image 1: 1-grams and 2-grams agree, there are no longer ones. Image 2: its caption has no weight at all.
    assert scores == pytest.approx([10 * (1 + 1) / 4, 0.0])


def test_a_repeated_word_gains_nothing_and_another_length_costs() -> None:
    [score, _] = cider_d(["red red red", "x"], [["red"], ["blue"]])
    # the weight 3 log 2 is clipped to log 2: log 2 * log 2 / (3 log 2 * log 2) = 1 / 3, for n = 1 of 4
    assert score == pytest.approx(10 * math.exp(-(2**2) / (2 * 6**2)) / 3 / 4)


def test_several_references_are_averaged() -> None:
    references = [["red dog", "small blue dog"], ["green bird"]]
    [both, _] = cider_d(["red dog", ""], references)
    log2 = math.log(2)  # every n-gram is in the captions of one image
    to_first = (1 + 1) / 4
    to_second = math.exp(-1 / 72) * (log2 * log2 / (math.hypot(log2, log2) * math.hypot(log2, log2, log2))) / 4
    assert both == pytest.approx(10 * (to_first + to_second) / 2)


def test_like_the_program_of_published_figures() -> None:
    """pycocoevalcap 1.2 (Cider, without its tokenizer in Java) gives these values."""
    captions = ["a man rides a brown horse", "two dogs play in the snow", "a plate of food", "a red bus on the street"]
    references = [
        ["a man riding a horse", "a person rides a brown horse on a beach", "man on horse"],
        ["two dogs playing in snow", "dogs play in the white snow"],
        ["a plate of food on a table", "food on a plate", "a meal", "a dinner plate with food on it"],
        ["a bus drives down the street"],
    ]
    assert cider_d(captions, references) == pytest.approx(
        [2.4663533262162844, 4.041664294860863, 2.5245949954388562, 1.9698838127098113], abs=1e-9
    )


def test_a_single_image_has_no_rare_words_and_no_caption_no_score() -> None:
    assert cider_d(["red"], [["red"]]) == [0.0]
    assert cider_d([], []) == []
