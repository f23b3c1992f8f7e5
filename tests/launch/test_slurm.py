"""launch/slurm in a Slurm of its own, and the dependences of three stages."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from janus_train.config import ROOT
from janus_train.train.loop import run
from tests.helpers import config_of
from tests.launch.slurm import Slurm, absent, two_nodes
from tests.processes import SMALL, digests, metrics, wait_for

CPU_CONFIG = (
    "{distributed_type: MULTI_GPU, compute_environment: LOCAL_MACHINE, mixed_precision: 'no', num_processes: 2}\n"
)


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    reason = absent()
    if reason:
        pytest.skip(reason)
    with two_nodes(tmp_path / "slurm") as started:
        yield started


@pytest.mark.slurm
def test_a_preempted_job_is_requeued_and_ends_with_the_same_batches(
    slurm: Slurm, random_base: Path, tmp_path: Path
) -> None:
    """Two nodes of one process; SIGTERM to the job's processes in a step; nobody tells the second start anything."""
    words = ("+stage=2", "run.steps=14", "run.checkpoint_every=0", *SMALL, f"init_from={random_base}")
    folder, logs = tmp_path / "run", tmp_path / "logs"
    (tmp_path / "cpu.yaml").write_text(CPU_CONFIG)
    environment = {
        "ACCELERATE_CONFIG": str(tmp_path / "cpu.yaml"),
        "ACCELERATE_USE_CPU": "true",
        "PROCESSES_PER_NODE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "LOGS": str(logs),
    }
    options = ("--parsable", "--nodes=2", "--gpus-per-node=0", f"--chdir={ROOT}", f"--output={tmp_path}/job.log")
    job = slurm("sbatch", *options, "launch/slurm/train.sbatch", *words, f"output_dir={folder}", **environment)

    def said() -> str:
        return "\n".join(path.read_text() for path in [*tmp_path.glob("job.log"), *logs.glob("*")])

    def state() -> str:
        return slurm("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")

    def reached_or_ended() -> bool:
        return len(metrics(folder)) >= 2 or state() in ("FAILED", "COMPLETED")

    wait_for(reached_or_ended, 180, "step 2")
    slurm("scancel", "--signal=TERM", job)
    wait_for(lambda: state() in ("FAILED", "COMPLETED", "CANCELLED"), 240, "the job's end")
    assert state() == "COMPLETED", said()
    log = (tmp_path / "job.log").read_text()
    assert "start 1: stopped with a checkpoint: requeued" in log and "start 2: ended with code 0" in log
    assert "stopped by SIGTERM" in said() and "starts from its checkpoint" in said()
    assert len(list(logs.glob(f"janus-{job}-*.log"))) == 1  # one a node, and both are this host
    assert (folder / "final/config.json").is_file()
    whole = run(config_of(*words, f"output_dir={tmp_path / 'whole'}"))
    assert digests(folder) == digests(whole)


def test_three_stages_wait_for_one_another(tmp_path: Path) -> None:
    """With a sbatch that writes down what it was asked."""
    asked = tmp_path / "asked"
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\necho "$@" >> {asked}\necho "$((100 + $(wc -l < {asked})));cluster"\n')
    sbatch.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{sbatch.parent}:{os.environ['PATH']}",
        "NODES": "32 32 16",
        "SBATCH_OPTIONS": "--partition=gpu --time=24:00:00",
    }
    words = [str(ROOT / "launch/slurm/three_stages.sh"), "outputs/7b", "model=janus_pro_7b", "seed=1"]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "stage 3: job 103 on 16 nodes, after 102"
    first, second, third = asked.read_text().splitlines()
    assert "--dependency" not in first and "--partition=gpu --time=24:00:00" in first and "--nodes=32" in first
    assert "--dependency=afterok:101 --kill-on-invalid-dep=yes" in second
    assert "--dependency=afterok:102" in third and "--nodes=16" in third
    assert third.endswith("launch/slurm/train.sbatch +stage=3 output_dir=outputs/7b/stage3 model=janus_pro_7b seed=1")
    none = subprocess.run(words[:1], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert none.returncode != 0 and "usage: launch/slurm/three_stages.sh OUTPUT_DIR" in none.stderr


def test_the_scripts_are_bash() -> None:
    scripts = [*(ROOT / "launch").glob("**/*.sh"), *(ROOT / "launch").glob("**/*.sbatch")]
    assert len(scripts) >= 3
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
        assert os.access(script, os.X_OK), script


@pytest.mark.parametrize(("size", "nodes", "sharing"), [("1b", (16, 16, 16), "zero1"), ("7b", (32, 32, 16), "zero3")])
def test_the_papers_clusters_share_every_stages_rows(
    tmp_path: Path, size: str, nodes: tuple[int, ...], sharing: str
) -> None:
    asked = tmp_path / "asked"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text(f'#!/bin/sh\necho "$ACCELERATE_CONFIG|$@" >> {asked}\necho 1\n')
    (tmp_path / "bin/sbatch").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    command = ["launch/slurm/paper.sh", size, str(tmp_path / "out"), "weights/base"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    for stage, line in enumerate(asked.read_text().splitlines(), start=1):
        config_file, _, words = line.partition("|")
        assert config_file == f"launch/accelerate/{sharing}.yaml"
        assert f"--nodes={nodes[stage - 1]} " in words
        config = config_of(*words.partition("train.sbatch ")[2].split())
        assert config.stage == stage and config.model.name == f"janus_pro_{size}"
        assert config.data.recipe == f"data_recipes/stage{stage}.yaml" and config.model.base == "weights/base"
        assert config.batch.rows_per_step % (8 * nodes[stage - 1]) == 0
    wrong = subprocess.run(
        ["launch/slurm/paper.sh", "2b", "x", "y"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2 and wrong.stderr.startswith("usage: ")
