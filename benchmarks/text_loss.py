"""Measures ways to compute the text head's loss, forward and backward: seconds, and the peak memory of torch's allocator.

    python benchmarks/text_loss.py [--positions 1024] [--hidden 1024] [--vocabulary 32000] [--steps 3] [--chunk N] [--ways "A;B"]

On a CPU, with one thread, seconds are the process's CPU time; on a GPU those of the clock, with products in bf16 by autocast.
All ways must give the same loss and gradients. The output is a table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F

from benchmarks.train import measure_allocation
from janus_train.model import chunked_cross_entropy
from janus_train.model.chunked_cross_entropy import LogitsToGrads, chunk_positions, chunked_loss, logits_to_grads

Way = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def loss_of_all_logits(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")


def torch_way(reduction: str, rows: int | None) -> Way:
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows)

    def way(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled(hidden.device.type):
            hidden, weight = hidden.bfloat16(), weight.bfloat16()  # autocast does not cover it
        return F.linear_cross_entropy(hidden, weight, targets, reduction=reduction, options=options).sum()

    return way


def ours(chunk: int, part: int, pointwise: LogitsToGrads | None = None) -> Way:
    """Our loss in chunks of ``chunk`` positions, of which ``part`` go through fp32 at a time."""

    def way(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with mock.patch.object(chunked_cross_entropy, "chunk_positions", lambda *_: (chunk, part)):
            return chunked_loss(hidden, weight, targets, pointwise)[0]

    return way


def ways(vocabulary: int, on_gpu: bool, chunk: int | None) -> dict[str, Way]:
    rows, part = chunk_positions(vocabulary, on_gpu, 2 if on_gpu else 4)
    rows, part = (chunk, min(chunk, part)) if chunk else (rows, part)
    compiled, pointwise = torch.compile(loss_of_all_logits), torch.compile(logits_to_grads, dynamic=True)
    return {
        "all logits": loss_of_all_logits,
        "all logits, compiled": compiled,
        f"chunks of {rows} (ours)": ours(rows, part),
        f"chunks of {rows} (ours), compiled": ours(rows, part, pointwise),
        f"chunks of {part}, each adding to the weight's gradient": ours(part, part),
        "F.linear_cross_entropy, sum, its own chunks": torch_way("sum", None),
        f"F.linear_cross_entropy, sum, chunks of {rows}": torch_way("sum", rows),
        f"F.linear_cross_entropy, each, chunks of {rows}": torch_way("none", rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("positions", 1024), ("hidden", 1024), ("vocabulary", 32000), ("steps", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--chunk", type=int, help="positions of our chunks, if not those of a run on this device")
    parser.add_argument("--ways", default="", help="beginnings of names, separated by semicolons; default: all")
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(options.positions, options.hidden, device=device, requires_grad=True)
    weight = (torch.randn(options.vocabulary, options.hidden, device=device) / options.hidden**0.5).requires_grad_()
    targets = torch.randint(0, options.vocabulary, (options.positions,), device=device)
    clock = time.perf_counter if on_gpu else time.process_time
    print(
        f"{options.positions} positions, hidden size {options.hidden}, vocabulary {options.vocabulary}, torch {torch.__version__}\n"
    )
    print("| way | s, forward and backward | of all logits' | peak GB |\n|---|---|---|---|", flush=True)
    reference: tuple[float, list[float]] | None = None
    for name, way in ways(options.vocabulary, on_gpu, options.chunk).items():
        if not name.startswith(tuple(options.ways.split(";"))):
            continue

        def step(way: Way = way) -> float:
            hidden.grad = weight.grad = None
            with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
                loss = way(hidden, weight, targets)
            loss.backward()
            return loss.item()

        step()  # compiles
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        base_bytes = torch.cuda.memory_allocated() if on_gpu else 0
        loss, peak = (step(), torch.cuda.max_memory_allocated() - base_bytes) if on_gpu else measure_allocation(step)
        seconds = []
        for _ in range(options.steps):
            start = clock()
            step()  # waits for the device, because it reads the loss
            seconds.append(clock() - start)
        assert hidden.grad is not None and weight.grad is not None
        results = [loss, hidden.grad.norm().item(), weight.grad.norm().item()]
        reference = reference or (min(seconds), results)
        tolerance = 1e-2 if on_gpu else 1e-5
        if any(abs(a - b) > tolerance * b for a, b in zip(results, reference[1], strict=True)):
            sys.exit(f"error: {name} comes to {results}, all logits to {reference[1]}")
        print(f"| {name} | {min(seconds):.2f} | {min(seconds) / reference[0]:.2f} | {peak / 1e9:.2f} |", flush=True)


if __name__ == "__main__":
    main()
