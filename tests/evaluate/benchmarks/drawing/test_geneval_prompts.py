"""GenEval's file of prompts is read as published, and what is not so is one line with its number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.drawing.geneval_prompts import Requirement, read_geneval_prompts
from tests.evaluate.benchmarks.drawing.geneval_data import LINES, write_prompts


def test_every_tag_is_read(tmp_path: Path) -> None:
    prompts = read_geneval_prompts(write_prompts(tmp_path))
    assert [prompt.tag for prompt in prompts] == [line["tag"] for line in LINES]
    assert [prompt.line for prompt in prompts] == LINES
    assert prompts[2].include == (Requirement("dog", 2),) and prompts[2].exclude == (Requirement("dog", 3),)
    assert prompts[4].include == (Requirement("cat", 1), Requirement("dog", 1, None, "left of", 0))
    assert prompts[5].include[1] == Requirement("cat", 1, "blue")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, "has no prompt"),
        ({"tag": "colours"}, "tag 'colours' is none of single_object, two_object"),
        ({"include": []}, "has nothing in include"),
        ({"include": {"class": "dog"}}, "include is not a list"),
        ({"include": ["dog"]}, "include: 'dog' has no class"),
        ({"include": [{"class": "dog", "count": 0}]}, "dog has count 0, not a number from 1"),
        ({"include": [{"class": "dog", "count": True}]}, "dog has count True, not a number from 1"),
        ({"include": [{"class": "dog", "count": 1, "color": "grey"}]}, "dog has color 'grey', none of red, orange"),
        (
            {"include": [{"class": "dog", "count": 1, "position": ["near", 0]}]},
            r"position \['near', 0\], not \[RELATION",
        ),
        ({"include": [{"class": "dog", "count": 1, "position": ["above", 0]}]}, "a position names entry 0 of include"),
        ({"exclude": [{"class": "dog"}]}, "exclude: dog has count None"),
    ],
)
def test_a_line_that_is_not_as_published_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write_prompts(tmp_path, [LINES[0], LINES[0] | change])
    with pytest.raises(UserError, match=rf"evaluation_metadata\.jsonl: line 2.*{message}") as error:
        read_geneval_prompts(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_empty_or_no_json_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "evaluation_metadata.jsonl"
    with pytest.raises(
        UserError, match=r"there is no such file; GenEval's prompts are prompts/evaluation_metadata\.jsonl"
    ):
        read_geneval_prompts(path)
    path.write_text("\n \n")
    with pytest.raises(UserError, match="is empty"):
        read_geneval_prompts(path)
    for text, reason in (("[1]", "is not a JSON object"), ("{", "is not valid JSON"), ("\udce9", "is not UTF-8")):
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(UserError, match=f"line 1 {reason}"):
            read_geneval_prompts(path)
