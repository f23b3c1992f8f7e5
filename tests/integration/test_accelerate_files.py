"""launch/accelerate/*.yaml with the real `accelerate launch`: two processes (cpu: one), on the CPU where there is no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from janus_train.paths import ROOT

FILES = sorted((ROOT / "launch/accelerate").glob("*.yaml"))
QUICK = ("batch.row_tokens=256", "batch.rows_per_step=2", "batch.micro_rows=2", "data.lookahead=2", "run.cpu_threads=1")
BACKENDS = {"cpu": "ddp", "ddp": "ddp", "fsdp2": "fsdp2", "hsdp": "fsdp2"}


def processes(name: str) -> int:
    return 1 if name == "cpu" else 2


def launch(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "accelerate", "launch", "--config_file", f"launch/accelerate/{name}.yaml"]
    return subprocess.run(
        [*command, "--num_processes", str(processes(name)), "--main_process_port", "0", "train.py", *words],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_accelerate_reads_it(path: Path) -> None:
    """Accelerate refuses keys that it does not know. Precision, clipping and accumulation are the recipe's."""
    config = load_config_from_file(str(path))
    assert config.num_processes == (1 if path.stem == "cpu" else 8)
    assert config.mixed_precision == "no"
    asked = config.deepspeed_config
    assert not {"gradient_accumulation_steps", "gradient_clipping", "deepspeed_config_file"} & set(asked)
    if path.stem.startswith("zero"):
        assert asked["zero_stage"] == int(path.stem[4])
        offloaded = path.stem.endswith("offload")
        assert (asked["offload_optimizer_device"] == "cpu") == offloaded
        assert (asked["offload_param_device"] == "cpu") == (path.stem == "zero3_offload")


@pytest.mark.parametrize(
    "name",
    ["zero3", *(pytest.param(p.stem, marks=pytest.mark.slow) for p in FILES if p.stem != "zero3")],
)
def test_a_run_by_the_real_command(tmp_path: Path, name: str) -> None:
    words = ("+stage=2", f"output_dir={tmp_path}/run", "run.steps=2", *QUICK)
    done = launch(name, *words)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run/checkpoints/step-000002/manifest.json").read_text())
    assert manifest["world_size"] == processes(name) and manifest["backend"] == BACKENDS.get(name, "zero")
    assert (tmp_path / "run/final/model.safetensors").is_file()
    lowered = done.stderr.count("warning: batch.micro_rows is 1, not 2: each of 2 processes has 1 of the step's 2 rows")
    assert lowered == processes(name) - 1


def test_a_mistake_is_the_first_line_and_is_in_the_launchers_report(tmp_path: Path) -> None:
    done = launch("ddp", "+stage=2", f"output_dir={tmp_path}/run", *QUICK, "batch.rows_per_step=3")
    assert done.returncode != 0
    mistake = "error: batch.rows_per_step 3 cannot be shared by 2 processes: use 1, 3"
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == [mistake]
    assert done.stderr.count("Traceback") == 1, "the launcher's own"
    assert lines.index(mistake) < lines.index("Traceback (most recent call last):")
    assert lines[-2] == f"  traceback : {mistake}" and "<NO_OTHER_FAILURES>" in done.stderr
    assert not (tmp_path / "run").exists()
