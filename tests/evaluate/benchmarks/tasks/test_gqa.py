"""GQA's exact match."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_train.evaluate.benchmarks.registry import get_tasks
from janus_train.evaluate.benchmarks.tasks.gqa import Gqa, normalise
from tests.evaluate.benchmarks.making import base64_png, png, short_protocol, write_parquet, write_tsv


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        ("dark blue", True),
        ("Dark blue.", True),
        (" DARK  BLUE!", True),
        ("blue", False),  # a part is not enough
        ("dark blue car", False),
        ("", False),
    ],
)
def test_an_answer_is_right_if_it_is_the_same_without_case_and_punctuation(answer: str, is_right: bool) -> None:
    result = Gqa().score([{"category": "", "expected": "dark blue", "answer": answer}], Path())
    assert result.headline.right == is_right
    assert result.num_unparsed == (not answer)


def test_punctuation_inside_a_word_goes_too() -> None:
    assert normalise("T-shirt") == "tshirt" and normalise("...") == ""


def test_both_published_layouts_ask_the_same(tmp_path: Path) -> None:
    [gqa] = get_tasks("gqa")
    row = {"question": "Which colour?", "answer": "red"}
    write_tsv(tmp_path / "tsv/GQA_TestDev_Balanced.tsv", [{"index": 201, **row, "image": base64_png()}])
    write_parquet(
        tmp_path / "hub/gqa/testdev_balanced_instructions/testdev.parquet", [{"id": "201", "imageId": "n5", **row}]
    )
    write_parquet(
        tmp_path / "hub/gqa/testdev_balanced_images/testdev.parquet",
        [{"id": "n5", "image": {"bytes": png(), "path": None}}],
    )
    opened = [gqa.open(tmp_path / layout, short_protocol()) for layout in ("tsv", "hub")]
    assert opened[0].prompts_digest == opened[1].prompts_digest
    assert [path.name for path in opened[1].files] == ["testdev.parquet"] * 2
