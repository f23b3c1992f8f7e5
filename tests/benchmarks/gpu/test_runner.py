"""The check of a GPU, rehearsed: what a step says is kept, a failure costs the others nothing, and the page says all of it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as runner
from benchmarks.gpu.page import page
from benchmarks.gpu.reference import cpu_run
from benchmarks.gpu.steps import REFERENCE, STEPS, Result, Step, compare, metrics_of
from tests.helpers import read_lines

SAYS = "import json; print('RESULT ' + json.dumps({'mode': 'ours', 'tokens_per_s': 1234.5678}))"


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def run(steps: dict[str, Step], *words: str) -> tuple[list[Result], str, object]:
        monkeypatch.setattr(runner, "STEPS", steps)
        monkeypatch.setattr("benchmarks.gpu.page.STEPS", steps)
        monkeypatch.setattr(runner, "RUNS", tmp_path / "runs")
        monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "out"), *words])
        end = None
        try:
            runner.main()
        except SystemExit as error:
            end = error.code
        results = read_lines(tmp_path / "out/results.jsonl")
        return results, (tmp_path / "out/gpu.md").read_text(), end

    return run


def test_a_steps_results_are_kept_with_its_exit_code(check) -> None:
    after = [{"what": "afterwards", "steps": 3}]
    results, text, end = check({"good": Step(python(SAYS), 30, "does it work?", lambda: after)})
    assert end is None
    assert [result.get("exit_code") for result in results] == [0, None, None]
    assert results[1] == {"step": "good", "mode": "ours", "tokens_per_s": 1234.5678}
    assert "## good: does it work?" in text and "| ours | 1235 |" in text and "- afterwards: steps 3" in text
    assert text.startswith("# A rehearsal without a GPU")


def test_a_step_that_fails_or_hangs_costs_the_others_nothing(check, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    child = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); open({str(pid)!r}, 'w').write(str(p.pid)); print('before the end', flush=True); p.wait()"
    steps = {
        "fails": Step(python("raise ValueError('no such kernel')"), 30, "?"),
        "hangs": Step(python(child), 5, "?"),
        "good": Step(python(SAYS), 30, "?"),
    }
    began = time.monotonic()
    results, text, end = check(steps)
    assert time.monotonic() - began < 40
    assert {result["step"]: result["exit_code"] for result in results if "exit_code" in result} == {
        "fails": 1,
        "hangs": 124,
        "good": 0,
    }
    assert end is not None and "failed: fails, hangs" in str(end)
    assert "ValueError: no such kernel" in text and "out of time" in text and "before the end" in text
    assert not Path(f"/proc/{pid.read_text()}").exists() or "Z" in Path(f"/proc/{pid.read_text()}/stat").read_text()


def test_no_step_starts_when_the_time_is_up(check) -> None:
    steps = {"first": Step(python("import time; time.sleep(2)"), 30, "?"), "second": Step(python(SAYS), 30, "?")}
    results, text, _ = check(steps, "--seconds", "21")
    assert {result["step"] for result in results} == {"first"}
    assert "## second: ?\n\nNot run." in text


def test_an_unknown_step_is_named(check, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/results.jsonl").touch()
    (tmp_path / "out/gpu.md").touch()
    _, _, end = check({"good": Step(python(SAYS), 30, "?")}, "god")
    assert end == 2 and "there is no step 'god'; there are good" in capsys.readouterr().err


def test_runs_are_compared_by_batches_and_losses() -> None:
    ours = [{"loss": 2.0, "batch_digest": "a"}, {"loss": 3.3, "batch_digest": "b"}]
    theirs = [
        {"loss": 2.0, "batch_digest": "a"},
        {"loss": 3.0, "batch_digest": "b"},
        {"loss": 1.0, "batch_digest": "c"},
    ]
    assert compare("x", ours, theirs) == {
        "what": "x",
        "steps": 2,
        "same_batches": True,
        "largest_loss_difference": pytest.approx(0.1),
    }
    assert not compare("x", [{"loss": 2.0, "batch_digest": "z"}], theirs)["same_batches"]
    assert not compare("x", [], theirs)["same_batches"]


def test_the_page_of_a_card_names_it() -> None:
    versions = {
        "step": "ceilings",
        "what": "versions",
        "card": "NVIDIA H100",
        "memory_gib": 79.1,
        "torch": "2.13.0",
        "cpus": 16,
    }
    text = page([{"step": "ceilings", "exit_code": 0, "seconds": 3.0}, versions], "abc", "2026-01-01", "make gpu")
    assert text.startswith("# Checked on a GPU\n\nNVIDIA H100 (79 GiB); torch 2.13.0")
    assert all(f"## {name}: " in text for name in STEPS)


@pytest.mark.slow
def test_the_reference_is_what_this_commit_trains_on(tmp_path: Path) -> None:
    """Otherwise ``python -m benchmarks.gpu.reference`` makes it again."""
    lines = cpu_run(tmp_path / "run")
    comparison = compare("", lines, metrics_of(REFERENCE))
    assert comparison["steps"] == 20 and comparison["same_batches"]
    assert comparison["largest_loss_difference"] < 1e-3


@pytest.mark.slow
def test_a_rehearsal_of_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path), "--seconds", "3000", "--patience", "5"])
    runner.main()
    results = read_lines(tmp_path / "results.jsonl")
    assert {result["step"] for result in results if result.get("exit_code") == 0} == set(STEPS)
    compared = [result for result in results if "same_batches" in result]
    assert len(compared) == 5 and all(result["same_batches"] for result in compared), json.dumps(compared)
    modes = {(result["step"], result["mode"]) for result in results if "tokens_per_s" in result and "mode" in result}
    assert {("stage2", "ours"), ("stage2", "naive"), ("stage1", "ours"), ("stage3", "ours")} <= modes
    assert not [result for result in results if "error" in result]
