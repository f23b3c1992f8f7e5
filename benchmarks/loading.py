"""Measures the host memory of a job of several processes while it starts: from the files of a model to a backend that trains.

    python benchmarks/loading.py                             all backends, four processes, on a CPU
    python benchmarks/loading.py --backends fsdp2 zero3      some of them
    python benchmarks/loading.py --in-memory                 as a loader does that builds the model in each process first

It writes a model with random weights, starts a job per backend with ``accelerate launch``, and adds up the processes'
shares of memory (PSS, which counts a page that n processes share as 1/n in each) many times a second. Zero is the job's
memory before it opens the model. The unit is one copy of the model's weights in fp32. The phases are

    read      until every rank has its weights on its device: all of them, or its shard
    complete  until the backends are ready to train: DDP's first broadcast, and ZeRO's masters, moments and buffers

and for each the table has the peak and what is there at its end. On a CPU the devices' weights are host memory too: the
difference between the two is what reading takes for itself, on a machine with GPUs all that it takes of the host.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from janus_train.compose import compose_config
from janus_train.config import Config
from janus_train.interop.model_folder import open_folder
from janus_train.interop.processor import load_tokenizer
from janus_train.model.build import build
from janus_train.model.meta_init import fill
from janus_train.model.parts import set_trainable
from janus_train.paths import ROOT, resolve
from janus_train.train.backends import Backend, make_backend
from janus_train.train.distributed.context import Distributed
from janus_train.train.initial_weights import Start, load_start

BACKENDS = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
LARGE = (
    "model.text.hidden_size=1024",
    "model.text.intermediate_size=2816",
    "model.text.num_hidden_layers=10",
    "model.text.num_attention_heads=16",
    "model.text.num_key_value_heads=16",
)
SAMPLE_S = 0.01


@dataclass(frozen=True)
class Measurement:
    """Host memory of one job in copies of the model."""

    backend: str
    read_peak: float
    read_end: float
    complete_peak: float
    complete_end: float

    @property
    def of_reading(self) -> float:
        return self.read_peak - self.read_end

    def __str__(self) -> str:
        columns = (self.read_peak, self.read_end, self.complete_peak, self.complete_end)
        return f"{self.backend:8}" + "".join(f" {value:14.2f}" for value in columns)


HEADER = f"{'backend':8}" + "".join(
    f" {name:>14}" for name in ("read, peak", "read, end", "complete, peak", "complete, end")
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--in-memory", action="store_true", help="build the model in each process first")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    overrides = ["+stage=2", *LARGE, *overrides]
    if options.worker is not None:
        work(options.worker, overrides, options.in_memory)
        return
    with tempfile.TemporaryDirectory() as folder:
        num_bytes = write_model(Path(folder) / "model", overrides)
        print(f"{options.ranks} processes, {num_bytes / 1e6:.0f} MB of weights; host memory in copies of the model")
        print(HEADER)
        for backend in options.backends:
            job = Path(folder) / backend
            job.mkdir()
            print(measure(backend, options.ranks, job, overrides, options.in_memory, num_bytes), flush=True)


def write_model(folder: Path, overrides: list[str]) -> int:
    """A complete model with random weights; returns its bytes in fp32."""
    config = compose_config(overrides)
    torch.manual_seed(0)
    janus = build(config.model)
    janus.save_pretrained(folder)
    assert config.model.base
    load_tokenizer(resolve(config.model.base)).save_pretrained(folder)
    return sum(parameter.numel() * 4 for parameter in janus.parameters())


def measure(
    backend: str, num_ranks: int, job: Path, overrides: list[str], in_memory: bool, model_bytes: int
) -> Measurement:
    """Starts a job, and watches its processes until all backends are complete."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"launch/accelerate/{backend}.yaml"]
    command += ["--num_processes", str(num_ranks), "benchmarks/loading.py", "--worker", str(job)]
    command += [*(["--in-memory"] if in_memory else []), *overrides]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with (job / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            for _ in until(job, "ready", num_ranks, process):
                pass
            pids = [int(path.name.split("-")[1]) for path in job.glob("ready-*")]
            begin = pss(pids)
            (job / "ready").touch()
            values = []
            for phase in ("read", "complete"):
                peak = max([pss(pids) for _ in until(job, phase, num_ranks, process)], default=0)
                end = pss(pids)
                values += [(max(peak, end) - begin) / model_bytes, (end - begin) / model_bytes]
                (job / phase).touch()
            process.wait(60)
        finally:
            process.kill()
    return Measurement(backend, *values)


def pss(pids: list[int]) -> int:
    """Bytes of memory of some processes together."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def until(job: Path, what: str, num_ranks: int, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Yields every few milliseconds until all ranks have said ``what``."""
    while len(list(job.glob(f"{what}-*"))) < num_ranks:
        if process.poll() is not None:
            raise SystemExit(f"the job has ended: {(job / 'log').read_text(errors='replace')[-3000:]}")
        yield
        time.sleep(SAMPLE_S)


def work(job: Path, overrides: list[str], in_memory: bool) -> None:
    """A rank: all imports and a tiny model, so that only the model's own memory is new, then the model."""
    base = job.parent / "model"
    rows = [f"batch.rows_per_step={os.environ['WORLD_SIZE']}", "batch.micro_rows=1"]
    tiny = compose_config(["+stage=2", *rows])
    config = compose_config([*overrides, *rows, f"init_from={base}"])
    distributed = Distributed(config)
    load = load_in_memory if in_memory else load_by_tensor
    assert tiny.model.base
    load(tiny, resolve(tiny.model.base), distributed, lambda phase: None)
    say(job, "ready")
    backend = load(config, base, distributed, lambda phase: say(job, phase))
    say(job, "complete")
    del backend


def load_by_tensor(config: Config, base: Path, distributed: Distributed, done: Callable[[str], None]) -> Backend:
    """As a run does."""
    janus, weights, _, _ = load_start(config, Start(base, ""))
    set_trainable(janus, config.train_parts)
    if distributed.backend == "zero":
        with calling_before_deepspeed(done):
            return make_backend(janus, config, distributed, weights)
    if distributed.backend == "ddp":
        fill(janus, weights, distributed.device)
        done("read")
        return make_backend(janus, config, distributed)
    backend = make_backend(janus, config, distributed, weights)
    done("read")
    return backend


@contextmanager
def calling_before_deepspeed(done: Callable[[str], None]) -> Iterator[None]:
    """Inside, ``done`` is called when the model has its weights and DeepSpeed's engine is about to be made."""
    import deepspeed

    initialize = deepspeed.initialize

    def done_and_initialize(**arguments: Any) -> Any:
        done("read")
        return initialize(**arguments)

    deepspeed.initialize = done_and_initialize
    try:
        yield
    finally:
        deepspeed.initialize = initialize


def load_in_memory(config: Config, base: Path, distributed: Distributed, done: Callable[[str], None]) -> Backend:
    """Random weights in memory, over them the folder's, and then a backend."""
    janus = build(config.model)
    state = janus.state_dict()
    for name, tensor in open_folder(base).tensors():
        state[name].copy_(tensor)
    set_trainable(janus, config.train_parts)
    done("read")
    return make_backend(janus, config, distributed)


def say(job: Path, what: str) -> None:
    """Tells the measuring process, and waits until it has measured."""
    gc.collect()
    (job / f"{what}-{os.getpid()}").touch()
    while not (job / what).exists():
        time.sleep(0.01)


if __name__ == "__main__":
    main()
