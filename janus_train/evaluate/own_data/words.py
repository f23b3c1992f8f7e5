"""Compares short answers as words: exact match, containment, F1.

Case, punctuation, the width of characters and English articles do not count. Chinese and Japanese characters are words of
their own, because nothing separates their words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD = re.compile(rf"(?<!\w)-?\d+(?:[.,:/]\d+)*|[{_CJK}]|(?:(?![{_CJK}_])\w)+(?:['’](?:(?![{_CJK}_])\w)+)*")
"""A number with its sign, a Chinese or Japanese character, or a word."""
_ARTICLES = {"a", "an", "the"}


def words(text: str) -> list[str]:
    """Returns the words of a text in lower case, without punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def answer_words(text: str) -> list[str]:
    """Returns the words of an answer without articles; of one that has no other words, such as the choice ``A``, all.

    A text without any word, such as ``+``, is its own only word.
    """
    all_words = words(text)
    return [word for word in all_words if word not in _ARTICLES] or all_words or text.split()


def is_exact(answer: str, truths: Sequence[str]) -> bool:
    """Whether the answer has exactly the words of one of the true ones."""
    return any(answer_words(answer) == answer_words(truth) for truth in truths)


def contains(answer: str, truths: Sequence[str]) -> bool:
    """Whether the words of one of the true answers stand in the answer, one after the other."""
    given = answer_words(answer)
    for truth in map(answer_words, truths):
        starts = range(len(given) - len(truth) + 1) if truth else range(0)
        if any(given[start : start + len(truth)] == truth for start in starts):
            return True
    return False


def f1(answer: str, truths: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of the answer's words, against the nearest of the true answers."""
    return max((_f1(answer_words(answer), answer_words(truth)) for truth in truths), default=0.0)


def _f1(given: list[str], true: list[str]) -> float:
    num_common = (Counter(given) & Counter(true)).total()
    return 2 * num_common / (len(given) + len(true)) if num_common else float(given == true)
