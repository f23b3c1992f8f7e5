"""CIDEr-D: how much a caption agrees with the true ones of its image (Vedantam et al. 2015, arxiv.org/abs/1411.5726).

A caption is its n-grams of 1 to 4 words, each weighted by how often it occurs and by how few images' true captions have
it. The score is the cosine of the two captions' weights, clipped so that repeating a word gains nothing, times a penalty
for other lengths; the mean over n and over the true captions, times 10. It is 10 for the only true caption if no other image
shares a word with it.

The published figures use a tokenizer in Java; words here are those of `words.words`. Scores of one data set and this
program can be compared, the decimals of a paper cannot.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from janus_train.evaluate.own_data.words import words

MAX_N, SIGMA, SCALE = 4, 6.0, 10.0
"""The longest n-gram, the width of the length penalty in words, and the factor: those of the paper."""

_NGram = tuple[str, ...]


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Returns the score of each image's caption against its references, at least one.

    How rare an n-gram is, is counted in all the references. With a single image nothing is rare, and its score is 0.
    """
    num_images = len(captions)
    reference_counts = [[_counts(text) for text in of_image] for of_image in references]
    num_images_with = Counter(ngram for of_image in reference_counts for ngram in set().union(*of_image))

    def weights(counts: Counter[_NGram]) -> list[dict[_NGram, float]]:
        by_n: list[dict[_NGram, float]] = [{} for _ in range(MAX_N)]
        for ngram, count in counts.items():
            by_n[len(ngram) - 1][ngram] = count * math.log(num_images / max(1, num_images_with[ngram]))
        return by_n

    scores = []
    for caption, of_image in zip(captions, reference_counts, strict=True):
        counts = _counts(caption)
        given = weights(counts)
        similarities = [_similarity(given, weights(true), _length(counts) - _length(true)) for true in of_image]
        scores.append(SCALE * sum(similarities) / len(similarities))
    return scores


def _counts(text: str) -> Counter[_NGram]:
    tokens = words(text)
    return Counter(_ngrams(tokens))


def _ngrams(tokens: Sequence[str]) -> Iterable[_NGram]:
    for n in range(1, MAX_N + 1):
        for start in range(len(tokens) - n + 1):
            yield tuple(tokens[start : start + n])


def _length(counts: Counter[_NGram]) -> int:
    """The number of words."""
    return sum(count for ngram, count in counts.items() if len(ngram) == 1)


def _similarity(given: list[dict[_NGram, float]], true: list[dict[_NGram, float]], difference: int) -> float:
    """The mean over n of the clipped cosines, with the penalty for a ``difference`` of words."""
    penalty = math.exp(-(difference**2) / (2 * SIGMA**2))
    return penalty * sum(map(_cosine, given, true)) / MAX_N


def _cosine(given: dict[_NGram, float], true: dict[_NGram, float]) -> float:
    norms = math.hypot(*given.values()) * math.hypot(*true.values())
    product = sum(min(weight, true.get(ngram, 0.0)) * true.get(ngram, 0.0) for ngram, weight in given.items())
    return product / norms if norms else 0.0
