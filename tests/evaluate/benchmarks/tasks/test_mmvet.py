"""MM-Vet's answers in the form that its evaluator takes."""

from __future__ import annotations

import json
from pathlib import Path

from janus_train.evaluate.benchmarks.registry import get_tasks
from janus_train.evaluate.benchmarks.tasks.mmvet import MMVet
from tests.evaluate.benchmarks.making import base64_png, png, short_protocol, write_parquet, write_tsv


def test_the_submission_has_the_answers_by_the_official_names(tmp_path: Path) -> None:
    result = MMVet().score([{"key": "v1_0", "answer": "A dog, “é”."}, {"key": "v1_1", "answer": ""}], tmp_path)
    assert json.loads((tmp_path / "mm-vet.json").read_text(encoding="utf-8")) == {"v1_0": "A dog, “é”.", "v1_1": ""}
    assert result.headline is None and result.num_unparsed == 1 and str(tmp_path / "mm-vet.json") in result.note


def test_both_published_layouts_ask_the_same(tmp_path: Path) -> None:
    [mmvet] = get_tasks("mmvet")
    row = {"question": "What is it?", "answer": "a dog", "category": "rec"}
    write_tsv(tmp_path / "tsv/MMVet.tsv", [{"index": 7, **row, "image": base64_png()}])
    hub = {
        "question_id": "v1_7",
        "question": "What is it?",
        "capability": "rec",
        "image": {"bytes": png(), "path": None},
    }
    write_parquet(tmp_path / "hub/mmvet/test.parquet", [hub])
    opened = [mmvet.open(tmp_path / layout, short_protocol()) for layout in ("tsv", "hub")]
    assert [task.keys for task in opened] == [["v1_7"], ["v1_7"]]
    assert opened[0].prompts_digest == opened[1].prompts_digest
