"""launch/slurm in a Slurm of its own, and the dependences of three stages."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from janus_train.paths import ROOT
from janus_train.train.run import run
from tests.helpers import config_of
from tests.launch.slurm import Slurm, absent, two_nodes
from tests.processes import SMALL, digests, free_port, metrics, wait_for

CPU_CONFIG = (
    "{distributed_type: MULTI_GPU, compute_environment: LOCAL_MACHINE, mixed_precision: 'no', num_processes: 2}\n"
)


ENDED = ("FAILED", "COMPLETED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    reason = absent()
    if reason:
        pytest.skip(reason)
    with two_nodes(tmp_path_factory.mktemp("slurm") / "slurm") as started:
        yield started


class Job:
    """launch/slurm/train.sbatch on two nodes of one process, with the words of train.py and sbatch's options."""

    def __init__(self, slurm: Slurm, folder: Path, words: tuple[str, ...], *options: str):
        self._slurm, self._folder, self._words = slurm, folder, words
        self.run = folder / "run"
        (folder / "cpu.yaml").write_text(CPU_CONFIG)
        environment = {
            "ACCELERATE_CONFIG": str(folder / "cpu.yaml"),
            "ACCELERATE_USE_CPU": "true",
            "PROCESSES_PER_NODE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "LOGS": str(folder / "logs"),
        }
        always = ("--parsable", "--nodes=2", "--gpus-per-node=0", f"--chdir={ROOT}", f"--output={folder}/job.log")
        script = ("launch/slurm/train.sbatch", *words, f"output_dir={self.run}")
        self.id = slurm("sbatch", *always, *options, *script, **environment)

    def state(self) -> str:
        return self._slurm("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={self.id}")

    def log(self) -> str:
        """The job's own lines."""
        path = self._folder / "job.log"
        return path.read_text() if path.is_file() else ""

    def said(self) -> str:
        return "\n".join([self.log(), *(path.read_text() for path in (self._folder / "logs").glob("*"))])

    def wait_for_step(self, step: int, start: int) -> None:
        """Of the job's so-manieth start."""

        def reached_or_ended() -> bool:
            there = (
                f"start {start}: 2 nodes" in self.log() and metrics(self.run) and metrics(self.run)[-1]["step"] >= step
            )
            return bool(there) or self.state() in ENDED

        wait_for(reached_or_ended, 180, f"step {step}")
        assert self.state() not in ENDED, self.said()

    def wait_for_end(self) -> str:
        wait_for(lambda: self.state() in ENDED, 240, "the job's end")
        return self.state()

    def assert_same_batches(self) -> None:
        """As one process has that nothing disturbs."""
        last = metrics(self.run)[-1]["step"]
        whole = run(config_of(*self._words, f"run.steps={last}", f"output_dir={self._folder / 'whole'}"))
        assert digests(self.run) == digests(whole)


@pytest.mark.slurm
def test_a_job_is_requeued_after_a_signal_and_a_lost_node_and_ends_with_the_same_batches(
    slurm: Slurm, random_base: Path, tmp_path: Path
) -> None:
    """SIGTERM to the job's processes in a step; a node set down in a later one; nobody tells the next start anything."""
    words = ("+stage=2", "run.steps=24", "run.checkpoint_every=0", *SMALL, f"init_from={random_base}")
    job = Job(slurm, tmp_path, words)
    job.wait_for_step(2, start=1)
    slurm("scancel", "--signal=TERM", job.id)
    wait_for(lambda: "starts from its checkpoint" in job.said() or job.state() in ENDED, 180, "the second start")
    job.wait_for_step(metrics(job.run)[-1]["step"] + 1, start=2)
    slurm("scontrol", "update", "NodeName=b", "State=DOWN", "Reason=test")
    assert job.wait_for_end() == "COMPLETED", job.said()
    assert "start 1: stopped with a checkpoint: requeued" in job.log()
    assert "DUE TO NODE FAILURE" in job.log() and "start 3: ended with code 0" in job.log()
    assert "stopped by SIGTERM" in job.said() and "starts from its checkpoint" in job.said()
    assert len(list((tmp_path / "logs").glob(f"janus-{job.id}-*.log"))) == 1  # one a node, and both are this host
    assert (job.run / "final/config.json").is_file()
    job.assert_same_batches()


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.parametrize("node", ["a", "b"])
def test_a_node_that_dies_is_waited_for(slurm: Slurm, random_base: Path, tmp_path: Path, node: str) -> None:
    """kill -9 of all that runs on it: the job's script too if it is the first. The job starts once the node is back."""
    words = ("+stage=2", "run.steps=24", "run.checkpoint_every=3", *SMALL, f"init_from={random_base}")
    job = Job(slurm, tmp_path, words)
    job.wait_for_step(4, start=1)
    slurm.kill_node(node, job.id)
    wait_for(lambda: job.state() == "PENDING", 120, "the job's return to the queue")
    assert not (job.run / "final").exists(), job.said()
    slurm.start_node(node)
    assert job.wait_for_end() == "COMPLETED", job.said()
    assert "starts from its checkpoint" in job.said()
    # With the first node its launcher of steps goes too, and Slurm may end the other node's process before it says a word.
    assert node == "a" or "another process is gone" in job.said()
    assert "Traceback" not in job.said()
    assert "start 2: ended with code 0" in job.log()
    job.assert_same_batches()


@pytest.mark.slow
@pytest.mark.slurm
def test_before_its_time_limit_a_job_saves_and_is_requeued_and_scancel_ends_it(
    slurm: Slurm, random_base: Path, tmp_path: Path
) -> None:
    """A limit of a minute (Slurm looks twice a minute). Cancelled, it saves too and does not come back."""
    words = ("+stage=2", "run.steps=5000", "run.checkpoint_every=0", *SMALL, f"init_from={random_base}")
    job = Job(slurm, tmp_path, words, "--time=1", "--signal=B:USR1@5")
    wait_for(lambda: "start 2: 2 nodes" in job.log() or job.state() in ENDED, 180, "the second start")
    assert job.log().count("start 1: asked to stop") == 1, job.said()
    assert "start 1: stopped with a checkpoint: requeued" in job.log(), job.said()
    saved = metrics(job.run)[-1]["step"]
    assert (job.run / f"checkpoints/step-{saved:06d}/manifest.json").is_file()
    job.wait_for_step(saved + 2, start=2)
    slurm("scancel", job.id)
    assert job.wait_for_end() == "CANCELLED", job.said()
    assert "start 2: stopped with a checkpoint: what follows is up to Slurm" in job.log()
    last = metrics(job.run)[-1]["step"]
    assert last > saved and (job.run / f"checkpoints/step-{last:06d}/manifest.json").is_file()
    time.sleep(10)  # in which a requeued job would have begun again
    assert job.state() == "CANCELLED" and "start 3" not in job.log()
    job.assert_same_batches()


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
