"""The JobSet's parts agree with each other; there is no cluster here to apply it to."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from janus_train.paths import ROOT
from tests.helpers import config_of


@pytest.fixture
def jobset() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "launch/kubernetes/train.yaml").read_text())


def test_the_master_is_the_first_pod_and_the_counts_agree(jobset: dict[str, Any]) -> None:
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    [replicated] = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    name = jobset["metadata"]["name"]
    assert environment["MASTER_ADDR"] == f"{name}-{replicated['name']}-0-0.{name}"  # SET-JOB-REPLICA-INDEX.SET
    assert job["completionMode"] == "Indexed" and replicated["replicas"] == 1
    assert job["parallelism"] == job["completions"] == int(environment["NODES"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(environment["PROCESSES_PER_NODE"])
    [rule] = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [1]}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["template"]["spec"]["volumes"]}


def test_its_command_becomes_the_launchers(jobset: dict[str, Any], tmp_path: Path) -> None:
    """With a python that writes down what it was asked, and a tini that only starts its child."""
    [replicated] = jobset["spec"]["replicatedJobs"]
    [container] = replicated["template"]["spec"]["template"]["spec"]["containers"]
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    tini = tmp_path / "tini"
    tini.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    tini.chmod(0o755)
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    environment |= {"JOB_COMPLETION_INDEX": "3", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [*container["command"], *container["args"]]
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert asked[:2] == ["-m", "janus_train.launch"]
    options, words = asked[2 : asked.index("train.py")], asked[asked.index("train.py") + 1 :]
    value = dict(itertools.pairwise(options))
    assert (value["--num_processes"], value["--machine_rank"]) == ("128", "3")
    config = config_of(*words)
    assert config.stage == 2 and config.batch.rows_per_step % 128 == 0
