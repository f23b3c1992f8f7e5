"""SEED-Bench's image part, against answers that are counted by hand."""

from __future__ import annotations

from pathlib import Path

from janus_train.evaluate.benchmarks.registry import get_tasks
from janus_train.evaluate.benchmarks.tasks.seed import Seed
from tests.evaluate.benchmarks.making import base64_png, png, short_protocol, write_parquet, write_tsv

OPTIONS = {"A": "one", "B": "two"}


def test_scores_are_by_category_and_over_all() -> None:
    answers = [("counting", "A", "A"), ("counting", "B", "two"), ("scene", "A", "B"), ("scene", "A", "hm")]
    lines = [
        {"category": category, "options": OPTIONS, "expected": expected, "answer": answer}
        for category, expected, answer in answers
    ]
    result = Seed().score(lines, Path())
    assert {score.group: (score.right, score.n) for score in result.scores} == {
        "": (2, 4),
        "counting": (2, 2),
        "scene": (0, 2),
    }
    assert result.headline.value == 50.0 and result.num_unparsed == 1


def test_both_published_layouts_ask_the_same_and_leave_out_videos(tmp_path: Path) -> None:
    [seed] = get_tasks("seed")
    rows = [
        {"index": 3, "question": "How many?", **OPTIONS, "answer": "B", "category": "counting", "image": base64_png()}
    ]
    write_tsv(tmp_path / "tsv/SEEDBench_IMG.tsv", rows)
    hub = {"question": "How many?", "choice_a": "one", "choice_b": "two", "answer": "B", "question_type_id": 5}
    image = [{"bytes": png(), "path": None}]
    write_parquet(
        tmp_path / "hub/seed/test.parquet",
        [
            {**hub, "question_id": "3", "data_type": "image", "image": image},
            {**hub, "question_id": "4", "data_type": "video", "image": image * 2},
        ],
    )
    opened = [seed.open(tmp_path / layout, short_protocol()) for layout in ("tsv", "hub")]
    assert [task.keys for task in opened] == [["3"], ["3"]]
    assert opened[0].prompts_digest == opened[1].prompts_digest
    line = {"category": "5", "options": OPTIONS, "expected": "B", "answer": "B"}
    assert "1 rows of other parts were left out" in opened[1].score([line], tmp_path).note
