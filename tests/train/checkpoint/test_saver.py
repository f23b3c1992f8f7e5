"""Saving under faults: kill -9 at the named points of a save, a full disk, and pieces cut and put together at will."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from janus_train.config import Config
from janus_train.errors import UserError
from janus_train.train.backends.base import ParameterShard
from janus_train.train.backends.ddp import DDP
from janus_train.train.checkpoint import format as checkpoint
from janus_train.train.checkpoint import saver, store
from janus_train.train.checkpoint.host_buffer import HostBuffer
from janus_train.train.run import run
from tests.helpers import config_of, fill, read_lines
from tests.processes import job
from tests.train.conftest import SMALL

Small = Callable[..., Config]


def steps_of(folder: Path) -> list[tuple[int, str, float]]:
    lines = read_lines(folder / "metrics.jsonl")
    return [(line["step"], line["batch_digest"], line["loss"]) for line in lines]


def assert_same_run(folder: Path, whole: Path) -> None:
    assert steps_of(folder) == steps_of(whole)
    a, b = (load_file(f / "final/model.safetensors") for f in (folder, whole))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------------------------------------------------- kill -9

POINTS = {"files": "write_files", "manifest": "write_manifest", "rename": "publish"}


def kill_at(point: str, step: str, rank: int) -> None:
    """A process dies on its way into this function of the saver, at this step."""
    done = getattr(saver, point)

    def killed(folder: Path, *rest: Any) -> Any:
        if step in str(folder):
            os.kill(os.getpid(), signal.SIGKILL)
        return done(folder, *rest)

    setattr(saver, point, killed)


@pytest.fixture(scope="module")
def plan(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The overrides of a run of four steps that saves at each, and the folder of one that nothing stopped."""
    overrides = [
        "+stage=1",
        f"init_from={random_base}",
        *SMALL,
        "run.steps=4",
        "run.checkpoint_every=1",
        "run.log_every=9",
    ]
    folder = tmp_path_factory.mktemp("whole") / "run"
    return overrides, run(config_of(*overrides, f"output_dir={folder}"))


@pytest.mark.parametrize("point", POINTS)
def test_killed_in_a_save(plan: tuple[list[str], Path], small: Small, tmp_path: Path, point: str) -> None:
    """Before the files, the manifest, the rename of step 2's checkpoint: step 1's loads, and the run is as if not killed."""
    overrides, whole = plan
    mine = [*overrides, f"output_dir={tmp_path / 'run'}"]
    with job(tmp_path / "log", tuple(mine), sabotage=partial(kill_at, POINTS[point], ".step-000002")) as killed:
        assert killed.codes() == [-signal.SIGKILL], killed.said()
    left = tmp_path / "run/checkpoints/.step-000002.part"
    assert left.is_dir() and (left / "manifest.json").exists() == (point == "rename")
    found = store.newest_checkpoint(tmp_path / "run")
    assert found is not None and found.step == 1
    assert_same_run(run(config_of(*mine)), whole)
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir()) == ["step-000003", "step-000004"]


# ----------------------------------------------------------------------------------------------------------- full disk


def test_full_disk(
    plan: tuple[list[str], Path], small_disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From step 2 on there is no room: three saves fail and the run stops; with room again it is as if nothing was."""
    overrides, whole = plan
    mine = [*overrides, f"output_dir={small_disk / 'run'}"]
    published = saver.publish

    def publish_and_fill(staging: Path, target: Path) -> None:
        published(staging, target)
        fill(small_disk, free_blocks=64)

    monkeypatch.setattr(saver, "publish", publish_and_fill)
    with pytest.raises(
        UserError, match=r"checkpoint of step 4 could not be written: .*No space left.*3 in a row failed"
    ):
        run(config_of(*mine))
    assert capfd.readouterr().err.count("the previous checkpoint stays, training continues") == 2
    assert [p.name for p in (small_disk / "run/checkpoints").iterdir()] == ["step-000001"]
    (small_disk / "ballast").unlink()
    monkeypatch.setattr(saver, "publish", published)
    assert_same_run(run(config_of(*mine)), whole)


def test_a_disk_too_small_for_one_checkpoint_is_refused(plan: tuple[list[str], Path], small_disk: Path) -> None:
    fill(small_disk, free_blocks=256)
    with pytest.raises(UserError, match=r"one checkpoint .* needs .* MB, .* 1\.\d MB free"):
        run(config_of(*plan[0], f"output_dir={small_disk / 'run'}"))
    assert not (small_disk / "run").exists()


def test_a_read_only_output_folder_is_refused(plan: tuple[list[str], Path], small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match="cannot be written"):
        run(config_of(*plan[0], f"output_dir={small_disk / 'run'}"))


# -------------------------------------------------------------------------------------------------------------- format


def backend_of(tensors: dict[str, torch.Tensor], rank: int, ranks: int) -> DDP:
    """One of ``ranks`` that have the tensors as trained parameters, with moments that can be told apart."""
    model = nn.Module()
    for name, tensor in tensors.items():
        model.register_parameter(name, nn.Parameter(tensor.clone()))
    backend = DDP.__new__(DDP)
    backend.janus, backend.model = model, model  # type: ignore[assignment]
    backend.distributed = SimpleNamespace(rank=rank, world_size=ranks)  # type: ignore[assignment]
    backend.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    backend.optimizer = torch.optim.AdamW(model.parameters())
    return backend


@given(
    shapes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=5),
    written_by=st.integers(1, 7),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_pieces_go_together_again_however_they_were_cut(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], written_by: int, cuts: list[int]
) -> None:
    """Each element is written once by any number of ranks, and read by any stretches."""
    folder = tmp_path_factory.mktemp("pieces")
    tensors = {f"p{i}": torch.randn(*shape) for i, shape in enumerate(shapes)}
    elements = 0
    for rank in range(written_by):
        backend = backend_of(tensors, rank, written_by)
        backend.init_optimizer_state()
        for piece in backend.local_shards():
            piece.moments["exp_avg"].copy_(piece.weight + 1)
            piece.moments["exp_avg_sq"].copy_(piece.weight + 2)
        pieces = backend.checkpoint_shards()
        elements += sum(piece.weight.numel() for piece in pieces)
        stored, metadata = checkpoint.tensors_of(HostBuffer(torch.device("cpu")).copy(pieces))
        save_file(stored, folder / checkpoint.rank_file(rank), metadata)
    assert elements == sum(t.numel() for t in tensors.values())

    reader = backend_of({name: torch.zeros_like(t) for name, t in tensors.items()}, 0, 1)
    reader.init_optimizer_state()
    stretches: list[ParameterShard] = []
    for piece in reader.local_shards():
        ends = sorted({0, piece.stop, *(cut for cut in cuts if cut < piece.stop)})
        stretches += [piece.narrow(a, b) for a, b in pairwise(ends)]
    copied = sum(count for path in folder.glob("rank-*") for _, count in checkpoint._fill(path, stretches))
    assert copied == elements
    for piece in reader.local_shards():
        expected = tensors[piece.name].flatten()
        assert torch.equal(piece.weight, expected)
        assert torch.equal(piece.moments["exp_avg"], expected + 1)
        assert torch.equal(piece.moments["exp_avg_sq"], expected + 2)


@pytest.mark.parametrize(("schema", "message"), [(1, "the older"), (99, "a newer")])
def test_a_checkpoint_of_another_schema_is_refused(tmp_path: Path, schema: int, message: str) -> None:
    folder = store.folder_of(tmp_path, 3)
    folder.mkdir(parents=True)
    manifest: dict[str, Any] = {"schema": schema, "step": 3, "files": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"schema {schema}, this version reads schema 2: use {message}"):
        store.newest_checkpoint(tmp_path)
