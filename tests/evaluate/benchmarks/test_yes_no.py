"""Yes, no, or neither."""

from __future__ import annotations

import pytest

from janus_train.evaluate.benchmarks.yes_no import yes_or_no


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        ("yes.", "yes"),
        ("No, there is none.", "no"),
        ("**NO**", "no"),
        ("Yes and no", None),
        ("I know nothing; nobody knows", None),  # no is not a word of it
        ("Yesterday", None),
        ("", None),
    ],
)
def test_the_word_counts_not_the_letters(answer: str, expected: str | None) -> None:
    assert yes_or_no(answer) == expected
