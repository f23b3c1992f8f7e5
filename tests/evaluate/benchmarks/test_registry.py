"""Tasks by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.registry import TASK_MODULES, get_tasks
from janus_train.paths import ROOT
from tests.evaluate.benchmarks.making import base64_png, protocol_file, write_tsv
from tests.helpers import Run


def test_tasks_come_in_the_order_that_is_asked_for() -> None:
    assert [task.name for task in get_tasks("mme, pope")] == ["mme", "pope"]
    assert {type(task).__module__.rpartition(".")[2] for task in get_tasks("mme,pope")} <= set(TASK_MODULES)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("pope,vqa", "--tasks: there is no task 'vqa', known are .*mmbench, mmbench_circular, mme"),
        ("pope,pope", "--tasks: pope stands there twice"),
        (" , ", "--tasks is empty: give some of .*mme, mmmu, mmvet, pope"),
    ],
)
def test_a_wrong_list_is_one_line(names: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_tasks(names)


@pytest.mark.usefixtures("registries")
def test_contributings_benchmark_runs_as_a_plug_in(
    run: Run, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^### A benchmark\n.*?^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "road_signs.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    write_tsv(tmp_path / "signs.tsv", [{"index": 1, "question": "Which?", "answer": "stop", "image": base64_png()}])
    protocol = protocol_file(tmp_path / "short.yaml")
    words = ("--tasks", "signs", "--data", tmp_path, "--protocol", protocol, "--out", tmp_path / "out")
    status, stdout, stderr = run("benchmark", random_base, "--plugin", "road_signs", *words)
    assert status == 0, stderr
    assert "Signs" in stdout
    assert json.loads((tmp_path / "out/results.json").read_text())["tasks"]["signs"]["headline"]["n"] == 1
