"""Every save copies into the same memory, page-locked on a GPU's machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.profiler import ProfilerActivity, profile

from janus_train.config import Config
from janus_train.train.backends.base import MOMENTS, ParameterShard
from janus_train.train.checkpoint.format import write_files
from janus_train.train.checkpoint.host_buffer import HostBuffer
from janus_train.train.run import run

Small = Callable[..., Config]


def some_shards(num: int, seed: int) -> list[ParameterShard]:
    generator = torch.Generator().manual_seed(seed)
    return [
        ParameterShard(
            name,
            0,
            torch.randn(size, generator=generator),
            {key: torch.randn(size, generator=generator) for key in MOMENTS},
        )
        for name, size in (("a", num), ("b", 3 * num), ("c", 1))
    ]


def values(shards: list[ParameterShard]) -> list[torch.Tensor]:
    return [tensor for shard in shards for tensor in (shard.weight, *shard.moments.values())]


def allocated(work: Callable[[], object]) -> int:
    """Bytes of all tensors that ``work`` allocates, freed since or not."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    return sum(
        max(0, event.nbytes()) for event in record.profiler.kineto_results.events() if event.name() == "[memory]"
    )


def test_a_save_is_one_buffer_and_the_next_ones_take_no_memory_at_all() -> None:
    buffer, shards = HostBuffer(torch.device("cpu")), some_shards(10_000, 0)
    num_bytes = sum(tensor.nbytes for tensor in values(shards))
    assert allocated(lambda: buffer.copy(shards)) == pytest.approx(num_bytes, abs=256)  # in whole cache lines
    address = buffer.copy(shards)[0].weight.data_ptr()
    for seed in (1, 2):
        later = some_shards(10_000, seed)
        assert allocated(lambda later=later: buffer.copy(later)) == 0  # type: ignore[misc]
        copies = buffer.copy(later)
        assert copies[0].weight.data_ptr() == address
        expected = [tensor.clone() for tensor in values(later)]
        for tensor in values(later):
            tensor.zero_()  # training goes on
        assert all(map(torch.equal, values(copies), expected))


def test_it_grows_with_the_moments_that_come_with_the_first_update() -> None:
    buffer, shards = HostBuffer(torch.device("cpu")), some_shards(100, 0)
    first = buffer.copy([ParameterShard(shard.name, shard.start, shard.weight) for shard in shards])
    assert [shard.moments for shard in first] == [{}, {}, {}]
    assert all(map(torch.equal, values(buffer.copy(shards)), values(shards)))


def test_its_stretches_are_written_as_tensors_of_their_own(tmp_path: Path) -> None:
    shards = some_shards(100, 0)
    write_files(tmp_path, 0, HostBuffer(torch.device("cpu")).copy(shards), None)
    stored = load_file(tmp_path / "rank-00000.safetensors")
    assert stored.keys() == {f"{key}/{name}" for key in ("weight", *MOMENTS) for name in "abc"}
    for shard in shards:
        assert torch.equal(stored[f"weight/{shard.name}"], shard.weight)
        assert all(torch.equal(stored[f"{key}/{shard.name}"], moment) for key, moment in shard.moments.items())


class FakeCuda:
    """CUDA's runtime and stream, which answer page-locking with ``error``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: int = 0):
        self.error, self.calls = error, []  # type: ignore[var-annotated]
        monkeypatch.setattr(torch.cuda, "cudart", lambda: self)
        stream = SimpleNamespace(synchronize=lambda: self.calls.append(("wait",)))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)

    def cudaHostRegister(self, address: int, num_bytes: int, flags: int) -> int:
        self.calls.append(("lock", address, num_bytes, flags))
        return self.error

    def cudaHostUnregister(self, address: int) -> int:
        self.calls.append(("unlock", address))
        return 0


def test_on_a_gpu_it_is_page_locked_once_and_all_copies_are_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, shards = FakeCuda(monkeypatch), some_shards(100, 0)
    kinds: list[Any] = []
    copy = torch.Tensor.copy_

    def copy_and_note(self: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        kinds.append(non_blocking)
        return copy(self, source)

    monkeypatch.setattr(torch.Tensor, "copy_", copy_and_note)
    buffer = HostBuffer(torch.device("cuda"))
    address = buffer.copy(shards)[0].weight.data_ptr()
    buffer.copy(shards)
    num_bytes = sum(tensor.nbytes for tensor in values(shards))
    assert cuda.calls == [("lock", address, num_bytes, 0), ("wait",), ("wait",)]
    assert kinds == [True] * 18
    buffer.close()
    assert cuda.calls[3:] == [("unlock", address)]


def test_memory_that_cannot_be_page_locked_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cuda, shards = FakeCuda(monkeypatch, error=2), some_shards(100, 0)
    buffer = HostBuffer(torch.device("cuda"))
    assert all(map(torch.equal, values(buffer.copy(shards)), values(shards)))
    assert "cannot be page-locked (CUDA error 2): each save holds training longer" in caplog.text
    buffer.close()
    assert [call[0] for call in cuda.calls] == ["lock"]


def test_a_run_that_saves_three_times_takes_one_buffer(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = []
    copy = HostBuffer.copy

    def copy_and_note(self: HostBuffer, shards: list[ParameterShard]) -> list[ParameterShard]:
        copies = copy(self, shards)
        buffers.append((self._values.data_ptr(), self._values.numel(), sum(t.numel() for t in values(copies))))
        return copies

    monkeypatch.setattr(HostBuffer, "copy", copy_and_note)
    run(small(1, "run.steps=3", "run.checkpoint_every=1"))
    assert len(buffers) == 3 and len(set(buffers)) == 1
    address, size, used = buffers[0]
    assert address and size == used
