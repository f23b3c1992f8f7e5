"""`janus-train inspect`: its lines are what training trains on, and nothing else is printed or written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from janus_train.data.types import digest
from janus_train.datatools.inspect.drawn import start_folder
from janus_train.paths import ROOT
from janus_train.train.run import run as train
from tests.helpers import Run, config_of, read_lines
from tests.train.conftest import SMALL


def test_lines_are_what_a_real_run_trains_on(
    run: Run, random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"init_from={random_base}", f"output_dir={tmp_path / 'run'}", *SMALL, "run.steps=4"]
    code, output, _ = run("inspect", "+stage=2", *words, "--steps", 4)
    assert code == 0 and list(tmp_path.iterdir()) == []
    train(config_of("+stage=2", *words))
    capsys.readouterr()
    lines = [json.loads(line) for line in output.splitlines()]
    metrics = read_lines(tmp_path / "run/metrics.jsonl")
    assert [(line["step"], line["row"]) for line in lines] == [(s, r) for s in (1, 2, 3, 4) for r in (0, 1)]
    for entry in metrics:
        rows = [line for line in lines if line["step"] == entry["step"]]
        samples = [sample for row in rows for sample in row["samples"]]
        assert digest([row["digest"] for row in rows]) == entry["batch_digest"]
        for kind in ("understanding", "text", "generation"):
            assert sum(s["tokens"] for s in samples if s["kind"] == kind) == entry[f"tokens/{kind}"]
    # the finished run's folder changes nothing, nor does the number of workers
    assert run("inspect", "+stage=2", *words, "--steps", 4, "data.num_workers=2")[1] == output
    later = run("inspect", "+stage=2", *words, "--from-step", 3, "--steps", 2)[1]
    assert later == "".join(output.splitlines(keepends=True)[4:])


def test_a_line_has_the_documented_fields(run: Run, random_base: Path) -> None:
    _, output, _ = run("inspect", "+stage=3", f"init_from={random_base}", *SMALL)
    lines = [json.loads(line) for line in output.splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert list(line) == ["step", "row", "digest", "samples"] and len(line["digest"]) == 16
        assert all(list(sample) == ["source", "kind", "key", "tokens"] for sample in line["samples"])
        assert {sample["source"] for sample in line["samples"]} <= {"questions", "draw", "dialogues"}


def test_the_start_is_the_trainers(random_base: Path, tmp_path: Path) -> None:
    """init_from; the stage before, beside it or in the folder itself; the model's base."""
    output_option = f"output_dir={tmp_path / 'stage2'}"
    assert start_folder(config_of("+stage=2", output_option, f"init_from={random_base}")) == random_base
    assert start_folder(config_of("+stage=2", output_option)).absolute() == ROOT / "data_recipes/demo/base"
    final = tmp_path / "stage1/final"
    final.mkdir(parents=True)
    (final / "config.json").write_text("{}")
    assert start_folder(config_of("+stage=2", output_option)) == final
    (tmp_path / "stage1/manifest.json").write_text(json.dumps({"stage": 1, "finished": True}))
    assert start_folder(config_of("+stage=2", f"output_dir={tmp_path / 'stage1'}")) == final
    assert start_folder(config_of("+stage=1", f"output_dir={tmp_path / 'other'}")).name == "base"


def test_a_run_that_stops_earlier_is_noted(run: Run, random_base: Path) -> None:
    code, output, error_output = run(
        "inspect", "+stage=1", f"init_from={random_base}", *SMALL, "run.steps=1", "--steps", 2
    )
    assert code == 0 and len(output.splitlines()) == 4
    assert error_output == "note: the run stops at step 1, before step 2\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no stage given: add +stage=1"),
        (["+stage=4"], "stage=4: no such stage, choose 1, 2, 3"),
        (["+stage=1", "run.step=3"], "run.step: no such option; did you mean run.steps?"),
        (["+stage=1", "batch.rows_per_step=0"], "batch.rows_per_step: Input should be greater than 0"),
        (["+stage=1", "init_from=nowhere"], "init_from=nowhere: there is no such folder"),
        (["+stage=1", "data.recipe=nowhere.yaml"], "there is no file"),
        (["+stage=1", "model=janus_pro_1b"], "data.recipe: no recipe is given"),
        (["+stage=1", "--steps", "0"], "'--steps'"),
        (["+stage=1", "--html", "FOLDER"], "FOLDER is a folder"),
        (["+stage=1", "--html", "NOWHERE/x.html"], "there is no folder NOWHERE"),
    ],
)
def test_mistakes_are_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    (tmp_path / "FOLDER").mkdir()
    monkeypatch.chdir(tmp_path)
    code, output, error_output = run("inspect", *words)
    assert code == 2 and not output
    assert error_output.count("\n") == 1 and error_output.startswith("error: ") and message in error_output, (
        error_output
    )
    assert [path.name for path in tmp_path.rglob("*")] == ["FOLDER"]


def test_a_reader_that_goes_away_ends_it_quietly(random_base: Path) -> None:
    words = [sys.executable, "-m", "janus_train.cli", "inspect", "+stage=1", f"init_from={random_base}", *SMALL]
    child = subprocess.Popen(
        [*words, "--steps", "100000"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout and child.stderr
    assert json.loads(child.stdout.readline())["step"] == 1
    child.stdout.close()
    assert child.wait(timeout=60) == 0
    error_output = [line for line in child.stderr.read().splitlines() if not line.startswith("note: the run stops")]
    assert error_output == []
    child.stderr.close()
