"""Runs of a few steps in this process, on the embedded images with random weights."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from janus_train.config import Config
from tests.helpers import config_of

SMALL = (
    "batch.row_tokens=256",
    "batch.rows_per_step=2",
    "batch.micro_rows=2",
    "run.checkpoint_every=0",
    "data.lookahead=2",
    "run.cpu_threads=1",
)


@pytest.fixture
def small(random_base: Path, tmp_path: Path) -> Callable[..., Config]:
    """A stage's configuration, small, from random weights, with the given overrides; its folder is ``run`` unless given."""

    def make(stage: int, *overrides: str) -> Config:
        given = [f"+stage={stage}", f"init_from={random_base}", f"output_dir={tmp_path / 'run'}", *SMALL, *overrides]
        return config_of(*given)

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
