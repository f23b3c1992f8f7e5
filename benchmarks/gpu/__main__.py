"""Runs the checks on this machine's GPU, most valuable first.

    python -m benchmarks.gpu [STEP ...] [--seconds 540] [--out outputs/gpu]

Each step is its own process with its own limit, so that one that fails or hangs costs the others nothing, and its results
are written at once: results.jsonl, log.txt and gpu.md in the output folder. On a machine with a GPU a check of all steps
also writes benchmarks/gpu.md. Without one everything runs with tiny models, as a rehearsal.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.measure import PREFIX
from benchmarks.gpu.page import page
from benchmarks.gpu.steps import RUNS, STEPS, Result
from janus_train.jsonl import append_json_lines
from janus_train.paths import ROOT

SECONDS = 540
_LEAST_S = 20
"""No step starts with less time than this left."""
_LOGGED_CHARACTERS = 400_000


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"all by default: {', '.join(STEPS)}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all steps together (default %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs/gpu", help="output folder (default outputs/gpu)")
    parser.add_argument(
        "--patience", type=float, default=1.0, metavar="FACTOR", help="multiplies every step's own limit (default 1)"
    )
    options = parser.parse_args()
    unknown = [name for name in options.steps if name not in STEPS]
    if unknown:
        parser.error(f"there is no step {unknown[0]!r}; there are {', '.join(STEPS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(RUNS, ignore_errors=True)
    RUNS.mkdir()
    deadline = time.monotonic() + options.seconds
    results = _run_steps(options.steps or list(STEPS), options.out, deadline, options.patience)
    command = " ".join(["python -m benchmarks.gpu", *options.steps])
    text = page(results, _commit(), datetime.date.today().isoformat(), command)
    (options.out / "gpu.md").write_text(text)
    print(f"\n{options.out / 'gpu.md'}")
    if not options.steps and any(result.get("card") for result in results):
        (ROOT / "benchmarks/gpu.md").write_text(text)
    failed_steps = [result["step"] for result in results if result.get("exit_code")]
    if failed_steps:
        sys.exit(f"failed: {', '.join(failed_steps)} (their output: {options.out / 'log.txt'})")


def _run_steps(names: list[str], out: Path, deadline: float, patience: float) -> list[Result]:
    path = out / "results.jsonl"
    path.unlink(missing_ok=True)
    (out / "log.txt").unlink(missing_ok=True)
    results: list[Result] = []
    for name in names:
        left_s = deadline - time.monotonic()
        if left_s < _LEAST_S:
            print(f"{name}: no time left", flush=True)
            continue
        of_step = [
            {"step": name} | result for result in _run(name, out, min(patience * STEPS[name].limit_s, left_s - 5))
        ]
        append_json_lines(path, of_step)
        results += of_step
        print(
            "\n  ".join(f"{name}: {_short(result)}" if "exit_code" in result else _short(result) for result in of_step)
        )
        sys.stdout.flush()
    return results


def _run(name: str, out: Path, limit_s: float) -> list[Result]:
    """Run a step; its end comes first, then its results. What it said before its time was up is kept."""
    step = STEPS[name]
    output = out / "running.txt"
    began = time.monotonic()
    exit_code = _wait(step.command, output, limit_s)
    seconds = round(time.monotonic() - began, 1)
    text = output.read_text(errors="replace")
    output.unlink()
    with (out / "log.txt").open("a") as log:
        log.write(f"\n===== {name} ({seconds} s, exit code {exit_code}): {' '.join(step.command)}\n")
        log.write(text[-_LOGGED_CHARACTERS:])
    end: Result = {"exit_code": exit_code, "seconds": seconds}
    if exit_code:
        end["last_lines"] = [line[:300] for line in text.splitlines() if line.strip()][-3:]
    said = [json.loads(line.removeprefix(PREFIX)) for line in text.splitlines() if line.startswith(PREFIX)]
    return [end, *said, *step.afterwards()]


def _wait(command: tuple[str, ...], output: Path, seconds: float) -> int:
    """The exit code; 124 if its time was up. The step has a session of its own, so that all of it ends with it."""
    with output.open("w") as file:
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return 124
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _short(result: Result) -> str:
    values = {key: value for key, value in result.items() if key != "step"}
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


def _commit() -> str:
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return answer.stdout.strip() or os.environ.get("COMMIT", "unknown")


if __name__ == "__main__":
    main()
