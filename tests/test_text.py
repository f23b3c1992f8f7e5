"""What acts on a terminal or reorders a text is shown as an escape; everything else stays."""

from __future__ import annotations

import pytest

from janus_train.text import printable, printable_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\x9b2Jb", r"a\x9b2Jb"),
        ("a\x00\x7f", r"a\x00\x7f"),
        ("two\nlines\r\tend", r"two\nlines\r\tend"),
        ("a\u202eb\u2066c\u200fd\u061c", r"a\u202eb\u2066c\u200fd\u061c"),
        ("a\u2028b\u2029\x85", r"a\u2028b\u2029\x85"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["苹果 [red] <b> & \\n", "naïve — “quotes”", "👩‍👩‍👧 🙂", "עברית", "نمی‌خواهم"])
def test_ordinary_text_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("text", ["one\n  two\r\n\nthree", "one\rtwo\nthree"])
def test_a_line_is_one_line(text: str) -> None:
    assert printable_line(text) == "one two three"
    assert printable_line(f"  {text}\x1b\u2028\u202e") == r"  one two three\x1b\u2028\u202e"


def test_kept_characters_stay() -> None:
    assert printable("a\nb\x1b\t", keep="\n") == "a\nb\\x1b\\t"
