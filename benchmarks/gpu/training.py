"""Training speed of the 1B on rows as full as a run's: ``training.py STAGE "ours;naive;..."``, modes of benchmarks/train.py."""

from __future__ import annotations

import statistics
import sys
import time
import traceback
from collections.abc import Callable

import torch

from benchmarks.gpu.measure import device, has_gpu, one_line, peak_gb, say, wait, wall_seconds
from benchmarks.rows import full_rows
from benchmarks.train import Bench, config_of
from janus_train.planning.flops import total_flops
from janus_train.planning.gpus import peak_flops
from janus_train.planning.workload import workload_of

ROWS, MICRO_ROWS, STEPS = 8, 4, 5


def main(stage: str, modes: str) -> None:
    model = "janus_pro_1b" if has_gpu() else "tiny"
    config = config_of(model, int(stage))
    began = time.time()
    samples, num_rows = full_rows(config, ROWS if has_gpu() else 2)
    bench = Bench(config, samples, MICRO_ROWS * config.batch.row_tokens, device())
    tokens = sum(map(len, samples))
    flops = total_flops(config.model, config.train_parts, workload_of(bench.samples))
    say(
        what="work",
        model=model,
        stage=int(stage),
        rows=num_rows,
        documents=len(samples),
        tokens=tokens,
        fill=tokens / num_rows / config.batch.row_tokens,
        useful_tflop=flops / 1e12,
        ready_s=time.time() - began,
    )
    makers = bench.modes() | {"ours, not compiled": lambda: bench.our_step(compiled=False)}
    for mode in modes.split(";"):
        try:
            result = _measure(bench, makers[mode])
        except Exception as error:  # a compiler that fails, too little memory: the next mode all the same
            traceback.print_exc()
            say(mode=mode, stage=int(stage), error=one_line(error))
            continue
        peak = peak_flops(device(), config.precision)
        step_s = result["step_s"]
        say(
            mode=mode,
            stage=int(stage),
            **result,
            micro_rows=bench.micro_tokens // config.batch.row_tokens,
            tokens_per_s=tokens / step_s,
            tflops=flops / step_s / 1e12,
            mfu=flops / step_s / peak if peak else None,
        )


def _measure(bench: Bench, make: Callable[[], Callable[[], float]]) -> dict[str, float]:
    """Loss, seconds and memory of a mode's steps; half the micro-batch if the card has too little memory."""
    while True:
        began = time.time()
        try:
            step = make()
            loss = step()
            wait()
            break
        except torch.OutOfMemoryError:
            if bench.micro_tokens <= bench.config.batch.row_tokens:
                raise
            bench.micro_tokens //= 2
            say(what="out of memory", next_micro_rows=bench.micro_tokens // bench.config.batch.row_tokens)
        step = None  # type: ignore[assignment]
        torch.cuda.empty_cache()
    first_s = time.time() - began
    if has_gpu():
        torch.cuda.reset_peak_memory_stats()
    times = [wall_seconds(step) for _ in range(STEPS if has_gpu() else 1)]
    return {
        "loss": loss,
        "first_s": first_s,
        "step_s": statistics.median(times),
        "least_s": min(times),
        "most_s": max(times),
        **peak_gb(),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
