"""Runs the plan's commands, some at a time; what is done is not run again.

OUT/ARM/seedN/stageM/    OUT/ARM/seedN/evaluation*/    OUT/steps/*.log, *.json: a step's output, and that it is done
OUT/settings.json        OUT/results.jsonl: one line per arm, seed and evaluation
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from benchmarks.ablations.plan import Step
from janus_train.errors import UserError
from janus_train.files import read_json_object, read_json_object_if_any, write_json, write_text
from janus_train.jsonl import write_json_lines
from janus_train.paths import ROOT
from janus_train.train.provenance import commit, hardware

LOOK_EVERY_S = 0.5
OF_A_MEASURE = ("name", "group", "right", "n", "percent", "chance", "round_trips")


def prepare(out: Path, settings: Any, recipes: Mapping[str, Any]) -> None:
    """Write what the commands read: the recipes, by file. Raises `UserError` if ``out`` has results of other settings.

    ``settings``: a dataclass of values that JSON knows.
    """
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(settings).items()}
    earlier_values = read_json_object_if_any(out / "settings.json")
    if earlier_values not in ({}, values):
        changes = [
            f"{key} {earlier_values.get(key)} -> {v}" for key, v in values.items() if earlier_values.get(key) != v
        ]
        raise UserError(f"--out {out} has runs of other settings ({'; '.join(changes)}): choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "settings.json", values)
    for name, recipe in recipes.items():
        write_text(out / name, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))


def run(steps: Sequence[Step], out: Path, jobs: int) -> list[str]:
    """Run what is not done, ``jobs`` at a time, each after the step that it needs; returns the names of what failed.

    Ctrl-C and SIGTERM end the commands; training goes on from its last checkpoint when it is started again.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    waiting = [step for step in steps if not _record(out, step.name, ".json").is_file()]
    unfinished = {step.name for step in waiting}
    running: dict[subprocess.Popen[bytes], tuple[Step, float]] = {}
    failed: list[str] = []
    try:
        while True:
            for step in [step for step in waiting if step.after not in unfinished][: jobs - len(running)]:
                waiting.remove(step)
                running[_start(step, out)] = step, time.monotonic()
            if not running:
                return failed
            time.sleep(LOOK_EVERY_S)
            for process in [process for process in running if process.poll() is not None]:
                step, start_time = running.pop(process)
                if process.returncode:
                    failed.append(step.name)
                    print(
                        f"failed: {step.name}, exit code {process.returncode}: see {_record(out, step.name, '.log')}",
                        flush=True,
                    )
                    continue
                unfinished.remove(step.name)
                _record_end(out, step, time.monotonic() - start_time)
                collect(out)
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in running:
            process.wait()


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _start(step: Step, out: Path) -> subprocess.Popen[bytes]:
    """Print the command and start it, in a session of its own, so that all of it can be stopped."""
    print(f"$ {shlex.join(step.command)}", flush=True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    path = _record(out, step.name, ".log")
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as log:
        return subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _record(out: Path, name: str, suffix: str) -> Path:
    return out / "steps" / (name.replace("/", "-") + suffix)


def _record_end(out: Path, step: Step, seconds: float) -> None:
    print(f"done: {step.name} in {seconds / 60:.1f} min", flush=True)
    record = {"command": shlex.join(step.command), "seconds": round(seconds, 1), "commit": commit()}
    record |= hardware() | {"processor": _processor(), "torch": version("torch")}
    write_json(_record(out, step.name, ".json"), record)


def _processor() -> str | None:
    """The processor's name where the system has it (Linux)."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return None


def collect(out: Path) -> None:
    """Write results.jsonl from all evaluations that are done."""
    settings = read_json_object(out / "settings.json")
    lines: list[dict[str, Any]] = []
    for path in sorted(out.glob("*/seed*/evaluation*/results.json")):
        arm, seed, evaluation = path.parts[-4:-1]
        record = read_json_object_if_any(_record(out, f"{arm}/{seed}/{evaluation}", ".json"))
        if record:
            results = read_json_object(path)
            measures = [{key: m[key] for key in OF_A_MEASURE if key in m} for m in results["measures"]]
            lines.append(
                {
                    "arm": arm,
                    "seed": int(seed.removeprefix("seed")),
                    "evaluation": evaluation,
                    "guidance": results["guidance"],
                    "temperature": results["temperature"],
                    "measures": measures,
                    "perplexity": results["text"]["perplexity"],
                    **settings,
                    **{key: record[key] for key in ("commit", "machine", "processor", "cpus", "gpus", "torch")},
                }
            )
    write_json_lines(
        out / "results.jsonl", sorted(lines, key=lambda line: (line["arm"], line["evaluation"], line["seed"]))
    )
