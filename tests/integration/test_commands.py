"""The real commands, as a user types them, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from janus_train.errors import UserError
from janus_train.paths import ROOT
from janus_train.train.run import run as train
from tests.helpers import config_of, read_lines
from tests.processes import job

BIN = Path(sys.executable).parent
QUICK = ("batch.row_tokens=256", "batch.rows_per_step=2", "batch.micro_rows=2", "data.lookahead=2", "run.cpu_threads=1")


def run(*words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [str(w) for w in words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def launch(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return run("accelerate", "launch", "--quiet", "--num_processes", "1", "train.py", *words)


def test_three_stages_then_draw_ask_and_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each stage starts where the one before ended, the last by the real command; the result draws and answers."""
    for stage in (1, 2, 3):
        words = (f"+stage={stage}", f"output_dir={tmp_path}/stage{stage}", "run.steps=2", *QUICK)
        if stage < 3:
            train(config_of(*words))
            said = capfd.readouterr().err
        else:
            done = launch(*words)
            assert done.returncode == 0, done.stderr
            said = done.stderr
        start = "the shipped base" if stage == 1 else f"stage {stage - 1}'s result"
        assert f"stage {stage} starts from {start}" in said
        assert len(read_lines(tmp_path / f"stage{stage}/metrics.jsonl")) == 2
    final = tmp_path / "stage3/final"
    drawn = run(
        "janus-train", "generate", final, "--prompt", "a red apple", "--num-images", "1", "--out", tmp_path / "drawn"
    )
    assert drawn.returncode == 0 and len(list((tmp_path / "drawn").glob("000-*.png"))) == 1, drawn.stderr
    asked = run(
        "janus-train",
        "chat",
        final,
        "--image",
        next((tmp_path / "drawn").glob("000-*.png")),
        "--prompt",
        "What is this?",
        "--max-new-tokens",
        "3",
    )
    assert asked.returncode == 0, asked.stderr
    report = run("janus-train", "report", tmp_path)
    assert report.returncode == 0 and (tmp_path / "report.html").stat().st_size > 10_000, report.stderr


def test_the_same_command_again_says_that_it_is_done(tmp_path: Path) -> None:
    words = ("+stage=1", f"output_dir={tmp_path}/run", "run.steps=1", *QUICK)
    train(config_of(*words))
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    again = run(sys.executable, "train.py", *words)
    assert again.returncode == 0 and "is finished at step 1" in again.stderr
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_kill_in_a_step_then_the_same_command_goes_on(tmp_path: Path) -> None:
    """kill -9 after the first checkpoint: the resumed run has the batches, losses and weights of one never stopped."""
    import torch
    from safetensors.torch import load_file

    words = ("+stage=2", "run.steps=14", "run.checkpoint_every=4", "run.log_every=1", *QUICK)
    assert launch(*words, f"output_dir={tmp_path}/whole").returncode == 0
    victim = subprocess.Popen(
        [sys.executable, "train.py", *words, f"output_dir={tmp_path}/cut"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert victim.stderr
    for line in victim.stderr:
        if "step 6/14" in line:
            victim.kill()
            break
    victim.wait(timeout=60)
    assert victim.returncode == -9 and not (tmp_path / "cut/final").exists()
    done = launch(*words, f"output_dir={tmp_path}/cut")
    assert done.returncode == 0 and "starts from its checkpoint" in done.stderr, done.stderr

    def kept(folder: Path) -> list[tuple[int, str, float]]:
        lines = read_lines(folder / "metrics.jsonl")
        return [(line["step"], line["batch_digest"], line["loss"]) for line in lines]

    assert kept(tmp_path / "cut") == kept(tmp_path / "whole")
    a, b = (load_file(tmp_path / name / "final/model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+stage=4"], "stage=4: no such stage, choose 1, 2, 3"),
        (["+stage=1", "run.step=3"], "run.step: no such option; did you mean run.steps?"),
        (["+stage=1", "run.steps=x"], "run.steps: Input should be a valid integer, got 'x'"),
        (["+stage=1", "init_from=nowhere"], "init_from=nowhere: there is no such folder"),
        (["+stage=1", "data.recipe=nowhere.yaml"], "there is no file"),
        (["+stage=1", "model=janus_pro_1b"], "data.recipe: no recipe is given"),
        (["+stage=1", "model.text.hidden_size=96", "model.text.intermediate_size=64"], "does not fit model tiny"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "here").mkdir()
    with job(tmp_path / "log", (*words, f"output_dir={tmp_path}/here/run")) as refused:
        assert refused.codes() == [1]
    lines = [line for line in refused.said().splitlines() if line.strip()]
    assert len(lines) == 1 and message in lines[0], refused.said()
    assert list((tmp_path / "here").iterdir()) == []


def test_a_mistake_in_the_real_command_is_one_line(tmp_path: Path) -> None:
    done = run(sys.executable, "train.py", f"output_dir={tmp_path}/run")
    assert done.returncode == 1 and not done.stdout
    [line] = done.stderr.splitlines()
    assert "no stage given: add +stage=1" in line and list(tmp_path.iterdir()) == []


def test_a_damaged_shard_is_one_line(tmp_path: Path) -> None:
    for name in ("stage1.yaml",):
        (tmp_path / name).write_bytes((ROOT / "data_recipes/demo" / name).read_bytes())
    (tmp_path / "shards").mkdir()
    for path in (ROOT / "data_recipes/demo/shards").glob("objects-*"):
        (tmp_path / "shards" / path.name).write_bytes(path.read_bytes())
    tar = tmp_path / "shards/objects-001.tar"
    tar.write_bytes(tar.read_bytes()[:50_000])
    words = ("+stage=1", f"data.recipe={tmp_path}/stage1.yaml", f"output_dir={tmp_path}/run")
    with job(tmp_path / "log", words) as refused:
        assert refused.codes() == [1]
    assert len(refused.said().strip().splitlines()) == 1
    assert "objects-001.tar is damaged: it has 50000 bytes" in refused.said()
    assert not (tmp_path / "run").exists()


def test_options_of_ones_own_by_the_real_command(tmp_path: Path) -> None:
    """They are in the run's files as values, so that it resumes without the folder that they came from."""
    own, folder = tmp_path / "own", tmp_path / "run"
    (own / "exp").mkdir(parents=True)
    (own / "exp/mine.yaml").write_text("# @package _global_\noptim: {learning_rate: 3.0e-5}\n")
    words = ("+stage=2", f"output_dir={folder}", "run.steps=1", *QUICK)
    done = launch("--config-dir", own, "+exp=mine", *words)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((folder / "config.yaml").read_text())["optim"]["learning_rate"] == 3e-5
    with pytest.raises(UserError, match=r"other settings \(optim\.learning_rate 3e-05 -> "):
        train(config_of(*words))
    train(config_of(*words, "optim.learning_rate=3e-5"))  # finished: there is nothing to do
    assert len(read_lines(folder / "metrics.jsonl")) == 1
