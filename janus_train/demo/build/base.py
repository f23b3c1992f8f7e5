"""Makes the tiny model's base: the pretrained parts that Janus starts from, trained here on the embedded images.

    python -m janus_train.demo.build.base --out data_recipes/demo/base

Janus starts from a trained VQ tokenizer, a trained vision encoder and a trained language model; so does the demo. In: the
shards of this folder, training combinations only, and the model's shape (configs/model/tiny.yaml). Out: one folder in
transformers' layout, bf16, with those three and a tokenizer; adaptors, code embeddings and image head are left to the
trainer. ``README.md`` there says how good each is after rounding. Deterministic for a seed on one machine.

The VQ tokenizer is trained in one process, the language model and then the vision encoder in another. A finished part is
saved in ``--work``, and ``--continue`` takes it from there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, JanusForConditionalGeneration, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from janus_train.config import ModelConfig
from janus_train.cpu import available_cores, requested_threads
from janus_train.data.special_tokens import SpecialTokens
from janus_train.demo.build.common import Figures
from janus_train.demo.build.documents import texts
from janus_train.demo.build.language_model import evaluate_llm, train_llm
from janus_train.demo.build.tokenizer import train_tokenizer
from janus_train.demo.build.vision import evaluate_vision, train_vision
from janus_train.demo.build.vq import evaluate_vq, train_vq
from janus_train.errors import UserError
from janus_train.files import staged_folder
from janus_train.lifetime import end_with_pool
from janus_train.model.build import build
from janus_train.paths import ROOT

VISION_STEPS = 2400
PREFIXES = {"vq": ("model.vqmodel.",), "vision": ("model.vision_model.",), "llm": ("model.language_model.", "lm_head.")}
"""Prefixes of the saved tensors, by part."""
GROUPS = (("vq",), ("llm", "vision"))
"""Parts that are trained one after the other; the groups are trained at the same time. The vision encoder is pretrained with
the language model's help."""
MOST_BYTES = 8_000_000

README = """# The base of the tiny model

What Janus takes ready from others, at the demo's size: a VQ tokenizer, a vision encoder (pretrained on
images and labels, contrastively, and by texts that the language model reads from it), a language model and a tokenizer, pretrained on the images and texts of `../shards` (training combinations only). In
bf16; the figures are measured after rounding to it, on held-out combinations.

Made by `{command}` on {machine} ({threads} threads), torch {torch}.

{tables}
"""


def load_config() -> ModelConfig:
    return ModelConfig.model_validate(yaml.safe_load((ROOT / "configs/model/tiny.yaml").read_text(encoding="utf-8")))


def make_tokenizer(config: ModelConfig, folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = train_tokenizer(texts(3000), config.text.vocab_size, config.text.max_position_embeddings)
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_janus(config: ModelConfig, tokenizer: PreTrainedTokenizerFast, seed: int) -> JanusForConditionalGeneration:
    special = SpecialTokens.of(tokenizer)
    torch.manual_seed(seed)
    return build(config, **vars(special))


def train(
    part: str, janus: JanusForConditionalGeneration, tokenizer: Any, config: ModelConfig, effort: float, seed: int
) -> Figures:
    """Train one part in place. Every part has its own seed, so that none depends on the parts trained before it."""
    torch.manual_seed(seed + 1 + list(PREFIXES).index(part))
    if part == "vq":
        return train_vq(janus.model.vqmodel, effort)
    if part == "vision":
        return train_vision(janus, tokenizer, config.image_size, max(1, round(VISION_STEPS * effort)), seed)
    return train_llm(janus, tokenizer, effort)


def part_state(part: str, janus: JanusForConditionalGeneration) -> dict[str, torch.Tensor]:
    state = janus.state_dict()
    return {name: tensor.contiguous() for name, tensor in state.items() if name.startswith(PREFIXES[part])}


def train_group(group: Sequence[str], options: argparse.Namespace, threads: int) -> None:
    """Train the asked parts of a group that are not finished in ``options.work``, in their order, and save each there."""
    torch.set_num_threads(threads)
    transformers_logging.set_verbosity_error()
    config, tokenizer = load_config(), AutoTokenizer.from_pretrained(options.work)
    janus = build_janus(config, tokenizer, options.seed)
    for part in group:
        figures_file, weights_file = _figures_file(part, options.work), _weights_file(part, options.work)
        if part in options.parts and not figures_file.is_file():
            figures = train(part, janus, tokenizer, config, options.effort, options.seed)
            save_file(part_state(part, janus), weights_file)
            figures_file.write_text(json.dumps(figures, indent=1), encoding="utf-8")
        if figures_file.is_file():  # the parts after it may need it
            janus.load_state_dict(load_file(weights_file), strict=False)


def train_groups(groups: Sequence[Sequence[str]], options: argparse.Namespace) -> None:
    """Train the groups at the same time, each in a process. Raises `UserError` as soon as one of them fails."""
    threads = max(1, options.threads // len(groups))
    context = get_context("spawn")
    processes = [context.Process(target=_train_in_process, args=(g, options, threads), daemon=True) for g in groups]
    for process in processes:
        process.start()
    for process in sorted_by_end(processes):
        if process.exitcode:
            raise UserError("training failed: see the messages above; --continue takes the parts that are finished")


def sorted_by_end(processes: list[SpawnProcess]) -> Iterator[SpawnProcess]:
    """Each process when it has ended."""
    running = {process.sentinel: process for process in processes}
    while running:
        for sentinel in wait(list(running)):
            process = running.pop(cast(int, sentinel))
            process.join()
            yield process


def _train_in_process(group: Sequence[str], options: argparse.Namespace, threads: int) -> None:
    end_with_pool()
    train_group(group, options, threads)


def _weights_file(part: str, work: Path) -> Path:
    return work / f"{part}.safetensors"


def _figures_file(part: str, work: Path) -> Path:
    return work / f"{part}.json"


def round_to_bf16(janus: JanusForConditionalGeneration) -> dict[str, torch.Tensor]:
    """Round the tensors to save; the model gets the rounded values too, so that it is evaluated as saved."""
    rounded_state = {n: t.to(torch.bfloat16) for part in PREFIXES for n, t in part_state(part, janus).items()}
    janus.load_state_dict({name: tensor.float() for name, tensor in rounded_state.items()}, strict=False)
    return rounded_state


def table(title: str, figures: Figures) -> str:
    rows = [
        f"| {name} | {value:.3g} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in figures.items()
    ]
    return "\n".join([f"| {title} | |", "|---|---|", *rows])


def write(
    janus: JanusForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, tables: list[str], out: Path, command: str
) -> None:
    """Write the folder beside ``out`` and rename it at the end."""
    with staged_folder(out) as staging:
        tokenizer.save_pretrained(staging)
        janus.config.dtype = "bfloat16"
        janus.config.architectures = ["JanusForConditionalGeneration"]
        janus.config.save_pretrained(staging)
        assert janus.generation_config is not None
        janus.generation_config.save_pretrained(staging)
        save_file(round_to_bf16(janus), staging / "model.safetensors", metadata={"format": "pt"})
        machine = f"{platform.machine()} {platform.system()}, {os.cpu_count()} CPU cores"
        text = README.format(
            command=command,
            machine=machine,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            tables="\n\n".join(tables),
        )
        (staging / "README.md").write_text(text, encoding="utf-8")
        size = (staging / "model.safetensors").stat().st_size
        assert size <= MOST_BYTES, f"{size} bytes: the base's weights have to stay under {MOST_BYTES}"
    print(f"{out}: {size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrain the tiny model's base on the embedded images.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=ROOT / "outputs/base", help="where finished parts are kept")
    parser.add_argument("--continue", dest="resume", action="store_true", help="take finished parts from --work")
    parser.add_argument("--parts", nargs="+", choices=PREFIXES, default=list(PREFIXES), help="train these alone")
    parser.add_argument(
        "--effort", type=float, default=1.0, help="factor on all numbers of steps, for trying things out"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads", type=int, default=requested_threads() or available_cores(), help="of all processes"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers_logging.set_verbosity_error()
    options.work.mkdir(parents=True, exist_ok=True)
    config = load_config()
    if "vision" in options.parts and "llm" not in options.parts and not _figures_file("llm", options.work).is_file():
        parser.error(f"--parts vision reads with the language model, which is not in {options.work}: add llm")
    if not options.resume:
        for part in options.parts:
            _figures_file(part, options.work).unlink(missing_ok=True)
    if not options.resume or not (options.work / "tokenizer.json").is_file():
        make_tokenizer(config, options.work)
    start = time.monotonic()
    train_groups([group for group in GROUPS if set(group) & set(options.parts)], options)
    print(f"trained in {(time.monotonic() - start) / 60:.1f} min")
    missing = [part for part in PREFIXES if not _figures_file(part, options.work).is_file()]
    if missing:
        print(f"kept in {options.work}; still missing: {', '.join(missing)}")
        return
    tokenizer = AutoTokenizer.from_pretrained(options.work)
    janus = build_janus(config, tokenizer, options.seed)
    for part in PREFIXES:
        janus.load_state_dict(load_file(_weights_file(part, options.work)), strict=False)
    training_figures = {part: json.loads(_figures_file(part, options.work).read_text()) for part in PREFIXES}
    round_to_bf16(janus)
    evaluation_figures = {
        "vq": evaluate_vq(janus.model.vqmodel, config.image_size),
        "vision": evaluate_vision(janus.model.vision_model, config.image_size),
        "llm": evaluate_llm(janus, tokenizer),
    }
    titles = {"vq": "VQ tokenizer", "vision": "vision encoder: linear probes, accuracy", "llm": "language model"}
    tables = [table(titles[part], training_figures[part] | evaluation_figures[part]) for part in PREFIXES]
    print("\n\n".join(tables))
    write(janus, tokenizer, tables, options.out, "python -m janus_train.demo.build.base --out data_recipes/demo/base")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
