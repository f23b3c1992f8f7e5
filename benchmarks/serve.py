"""Measures what it brings that ``janus-train serve`` works on waiting requests together.

    python benchmarks/serve.py [--model MODEL] [--clients 16] [--requests 48] [--rounds 1] [--device cpu]

Two servers run one after the other in each round, with ``--batch-size 1`` and 16. So many clients at once send answers of 64
tokens, and then drawings, over HTTP. On a CPU, with one thread, the server's CPU time is measured, so that other load on the
machine matters little; on a GPU the clock. The answers of both must be the same. Without ``--model``: the random model of
benchmarks/generate.py, with the demonstration's tokenizer.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import psutil
import torch
from transformers import AutoTokenizer

from benchmarks.generate import SMALL
from janus_train.compose import compose_config
from janus_train.data.special_tokens import SpecialTokens
from janus_train.model.build import build
from janus_train.paths import ROOT

BATCH_SIZES = (1, 16)
NUM_TOKENS = 64


def small_model(folder: Path) -> None:
    """About 11 M random parameters in the language model; images of 256 codes."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data_recipes/demo/base")
    torch.manual_seed(0)
    model = compose_config(["+stage=1", *SMALL]).model
    build(model, **vars(SpecialTokens.of(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def server(model: str, batch_size: int, device: str) -> Iterator[tuple[str, psutil.Process]]:
    """The address and the process of a server that is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", model, "--name", "m", "--port", str(port), "--batch-size", str(batch_size), "--device", device]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"OMP_NUM_THREADS": "1"} if device == "cpu" else {})
    command = [sys.executable, "-m", "janus_train.cli", *words, "--max-waiting", "1024"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            sys.exit("error: the server did not start")
        try:
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            process.terminate()


async def ask(http: httpx.AsyncClient, kind: str, number: int) -> str:
    if kind == "answers":
        messages = [{"role": "user", "content": f"What colour is object {number}?"}]
        body = {"model": "m", "messages": messages, "max_tokens": NUM_TOKENS, "temperature": 1, "seed": number}
        answer = await http.post("/v1/chat/completions", json=body)
        return answer.raise_for_status().json()["choices"][0]["message"]["content"]
    body = {"prompt": f"{number} dogs", "seed": number}
    answer = await http.post("/v1/images/generations", json=body)
    return answer.raise_for_status().json()["data"][0]["b64_json"]


async def load(address: str, kind: str, clients: int, requests: int) -> list[str]:
    """The answers to ``requests``, of which ``clients`` are asked for at a time."""
    room = asyncio.Semaphore(clients)

    async def one(number: int) -> str:
        async with room:
            return await ask(http, kind, number)

    async with httpx.AsyncClient(base_url=address, timeout=None) as http:
        await ask(http, kind, 0)  # whatever the first costs
        return await asyncio.gather(*(one(number) for number in range(requests)))


def measure(address: str, process: psutil.Process, kind: str, options: argparse.Namespace) -> tuple[float, list[str]]:
    """Seconds for all requests, and the answers."""

    def now() -> float:
        times = process.cpu_times()
        return times.user + times.system if options.device == "cpu" else time.perf_counter()

    start = now()
    answers = asyncio.run(load(address, kind, options.clients, options.requests))
    return now() - start, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    seconds: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            small_model(Path(folder))
        for _ in range(options.rounds):
            first: dict[str, list[str]] = {}
            for batch_size in BATCH_SIZES:
                with server(options.model or folder, batch_size, options.device) as (address, process):
                    for kind in ("answers", "images"):
                        taken, answers = measure(address, process, kind, options)
                        seconds.setdefault((kind, batch_size), []).append(taken)
                        if answers != first.setdefault(kind, answers) and options.device == "cpu":
                            sys.exit(f"error: the {kind} depend on the batch")
    print("| requests | s at a batch size of 1 | s at 16 | ratio |\n|---|---|---|---|")
    for kind in ("answers", "images"):
        alone, together = (statistics.median(seconds[kind, batch_size]) for batch_size in BATCH_SIZES)
        print(f"| {options.requests} {kind} | {alone:.1f} | {together:.1f} | {alone / together:.1f} |")


if __name__ == "__main__":
    main()
