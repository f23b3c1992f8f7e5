"""A kill at any point leaves shards that training can read, and the same command goes on; processes share the work."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from janus_train.data.shards.index import index_path, read_head, read_listing
from janus_train.data.sources.shards import ShardSource
from janus_train.paths import ROOT
from tests.helpers import Run


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "janus_train.cli", "tokenize", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def digests(shards: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for tar in shards for path in (tar, index_path(tar))]


def test_kill_9_in_the_middle_then_the_same_command_goes_on(run: Run, shards: list[Path], random_base: Path) -> None:
    copy = shutil.copytree(shards[0].parent, shards[0].parent.with_name("copy"))
    victim = start(shards[0].parent, "--model", random_base)
    assert victim.stderr and victim.stdout
    lines = []
    for line in victim.stderr:
        lines.append(line)
        if "s-0.tar: 6 images" in line:
            victim.kill()
            break
    assert victim.wait(timeout=60) == -9, "".join(lines)
    victim.stdout.close()
    victim.stderr.close()
    source = ShardSource(shards)
    assert all(source[i].images or source[i].fields for i in range(len(source)))
    assert read_head(shards[0]).codes and not read_head(shards[2]).codes
    code, output, error_output = run("tokenize", shards[0].parent, "--model", random_base)
    assert code == 0 and "had nothing to do" in output, error_output
    assert all(read_head(tar).codes for tar in shards)
    assert not list(shards[0].parent.glob(".*")), "nothing is left over"
    run("tokenize", copy, "--model", random_base)
    assert digests(shards) == digests([copy / tar.name for tar in shards]), "as if never killed"


def test_two_processes_at_once_share_the_tars(shards: list[Path], random_base: Path) -> None:
    """The same command twice, as if by mistake: each tar is done by one of them."""
    processes = [start(shards[0].parent, "--model", random_base) for _ in range(2)]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all(read_head(tar).codes for tar in shards)
    source = ShardSource(shards)
    assert sum(c is not None for i in range(len(source)) for c in source[i].codes) == 14
    assert read_listing(shards[0].parent) == {tar.name: read_head(tar) for tar in shards}
    assert not list(shards[0].parent.glob(".*"))


def test_processes_have_tars_of_their_own(
    run: Run, shards: list[Path], random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("tokenize", shards[0].parent, "--model", random_base)
    assert run(*words, "--num-processes", 2, "--process-index", 1)[1].startswith("1 of 1 tars")
    assert [bool(read_head(tar).codes) for tar in shards] == [False, True, False]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(*words)[1].startswith("2 of 2 tars")
    monkeypatch.setenv("WORLD_SIZE", "two")
    code, _, error_output = run(*words)
    assert code == 2 and error_output == "error: RANK and WORLD_SIZE of the environment are not integers\n"
