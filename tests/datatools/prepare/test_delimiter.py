"""The delimiter of a table, from its first lines."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_train.datatools.prepare.delimiter import DELIMITERS, find_delimiter


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("file_name,text\na.png,a dog; it runs\n", ","),
        ("file_name;text\na.png;a dog, it runs, and barks\nb.png;a cat, asleep\n", ";"),
        ("file_name\ttext\na.png\ta dog, it runs; and barks\n", "\t"),
        ("image|caption\na.png|a dog, it runs; and barks\n", "|"),
        ('"file_name";"text, in English"\n"a.png";"a dog, it runs"\n', ";"),
        ("\ufefffile_name;text,\na.png;a dog\n", ";"),
        ("Bild;Beschreibung\na.png;Ein Hund, der rennt\nb.png;Eine Katze\n", ";"),
        ('Bild;Beschreibung\na.png;"Ein Hund; er rennt,\nund bellt"\nb.png;Eine Katze\n', ";"),
        ("x,y,z\n1,2,3\n1,2\n1,2,3\n", ","),
        ("sentence\nHello, world\nBye\n", "\t"),
        ("text\nHello; world\nBye\n", ","),
        ("a\n", ","),
        ("", ","),
        ("\n\n", ","),
    ],
)
def test_the_reading_that_fits_best(text: str, delimiter: str) -> None:
    assert find_delimiter(text.splitlines(keepends=True)) == delimiter


def test_without_a_line_of_names_their_number_counts() -> None:
    lines = ["a.png;Ein Hund, der rennt\n", "b.png;Eine Katze, die, wie immer, schläft\n"]
    assert find_delimiter(lines, ("image", "caption")) == ";"


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0\n"), max_size=12)


@given(rows=st.lists(st.tuples(WORDS, WORDS), min_size=2, max_size=8), delimiter=st.sampled_from(DELIMITERS))
def test_known_names_decide_whatever_is_in_the_rows(rows: list[tuple[str, str]], delimiter: str) -> None:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([("file_name", "text"), *rows])
    assert find_delimiter(out.getvalue().splitlines(keepends=True)) == delimiter
