"""A benchmark from files to results: resumed, refused, and the same in any batch and number of processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from janus_train.evaluate.benchmarks import run as running
from tests.evaluate.benchmarks.making import pope_rows, protocol_file, write_tsv
from tests.helpers import Run, read_lines


@pytest.fixture
def pope(tmp_path: Path) -> tuple[Path, Path]:
    """The folder of POPE's data, and a protocol with short answers."""
    write_tsv(tmp_path / "data" / "POPE.tsv", pope_rows())
    return tmp_path / "data", protocol_file(tmp_path / "short.yaml")


def words(base: Path, pope: tuple[Path, Path], out: Path, *more: object) -> list[object]:
    return ["benchmark", base, "--tasks", "pope", "--data", pope[0], "--protocol", pope[1], "--out", out, *more]


def test_a_benchmark_writes_answers_results_and_manifest(run: Run, random_base: Path, tmp_path: Path, pope) -> None:
    code, stdout, stderr = run(*words(random_base, pope, tmp_path / "out"))
    assert code == 0, stderr
    lines = read_lines(tmp_path / "out/pope/answers.jsonl")
    assert [line["key"] for line in lines] == list("012345")
    assert lines[3]["splits"] == ["random", "popular"]
    results = json.loads((tmp_path / "out/results.json").read_text())["tasks"]["pope"]
    assert results == json.loads((tmp_path / "out/pope/results.json").read_text())
    manifest = results["manifest"]
    assert manifest["num_samples"] == 6 and len(manifest["weights_digest"]) == 64
    assert manifest["roles"] == ["User", "Assistant"] and manifest["system_prompt"] == ""
    assert results["num_unparsed"] == sum(line["answer"].lower() not in ("yes", "no") for line in lines)
    assert "87.0" in stdout and "86.2" in stdout and "Janus-Pro technical report" in stdout


def test_an_interrupted_run_goes_on_and_equals_one_in_another_batch(
    run: Run, random_base: Path, tmp_path: Path, pope, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*words(random_base, pope, tmp_path / "whole", "--batch-size", 3))[0] == 0
    append, num_appended = running.AnswerFile.append, []

    def fail_at_the_second(self, lines):
        if num_appended:
            raise KeyboardInterrupt
        num_appended.append(len(lines))
        append(self, lines)

    with monkeypatch.context() as patch:
        patch.setattr(running.AnswerFile, "append", fail_at_the_second)
        assert run(*words(random_base, pope, tmp_path / "out", "--batch-size", 2))[0] == 130
    with (tmp_path / "out/pope/answers.jsonl").open("a") as file:
        file.write('{"key": "2", "ans')  # what a kill leaves
    asked: list[int] = []
    answer = running._answer
    monkeypatch.setattr(
        running,
        "_answer",
        lambda task, context, share, *more: (asked.extend(share), answer(task, context, share, *more)),
    )
    assert run(*words(random_base, pope, tmp_path / "out", "--batch-size", 2))[0] == 0
    assert asked == [2, 3, 4, 5]
    for name in ("answers.jsonl", "results.json"):
        assert (tmp_path / "out/pope" / name).read_text() == (tmp_path / "whole/pope" / name).read_text()
