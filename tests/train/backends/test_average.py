"""The average of the weights: exact, resumed, the same under every backend, and without any effect on the training."""

from __future__ import annotations

import json
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import JanusForConditionalGeneration

from janus_train.config import Config
from janus_train.data.encode import Encoder
from janus_train.data.held_out import blocks_of, held_out_sources, read_documents
from janus_train.data.loader import open_recipe
from janus_train.errors import UserError
from janus_train.interop.processor import load_tokenizer
from janus_train.model.document_losses import ImageShape, losses_by_source
from janus_train.model.janus import PackedJanus
from janus_train.train.run import run
from tests.helpers import config_of, read_lines
from tests.processes import serving
from tests.train.backend_worker import run_cases
from tests.train.conftest import SMALL
from tests.train.validating import held_out_recipe

Small = Callable[..., Config]
DECAY = 0.75
EMA = (f"run.ema={DECAY}", "run.checkpoint_every=1", "run.keep_checkpoints=9", "run.planned_steps=4")
VALIDATE = ("run.validate_every=1", "run.validation_samples=6")


def saved(folder: Path, step: int, kind: str) -> dict[str, torch.Tensor]:
    """The flat tensors of a checkpoint of one process."""
    tensors = load_file(folder / f"checkpoints/step-{step:06d}/rank-00000.safetensors")
    return {name.removeprefix(f"{kind}/"): t for name, t in tensors.items() if name.startswith(f"{kind}/")}


def model(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def averages(start: dict[str, torch.Tensor], run_dir: Path, steps: range) -> dict[str, torch.Tensor]:
    values = dict(start)
    for step in steps:
        values = {name: v.lerp(saved(run_dir, step, "weight")[name], 1 - DECAY) for name, v in values.items()}
    return values


def test_it_is_the_average_of_the_weights_after_each_step_and_training_is_as_without(
    small: Small, random_base: Path, tmp_path: Path
) -> None:
    folder = run(small(2, *EMA, "run.steps=3"))
    names = saved(folder, 3, "weight").keys()
    start = {name: tensor.flatten() for name, tensor in model(random_base).items() if name in names}
    wanted = averages(start, folder, range(1, 4))
    assert len(wanted) > 20 and same(saved(folder, 3, "ema"), wanted)
    written, final = model(folder / "ema"), model(folder / "final")
    assert all(torch.equal(written[name].flatten(), wanted[name]) for name in names)
    assert all(torch.equal(written[name], final[name]) for name in final if name not in names)
    assert json.loads((folder / "ema/training.json").read_text()) == {"stage": 2, "step": 3, "ema": DECAY, "best": None}
    without = run(small(2, *EMA[1:], "run.steps=3", f"output_dir={tmp_path / 'without'}"))
    assert same(model(without / "final"), final) and not (without / "ema").exists()
    assert [line["loss"] for line in read_lines(folder / "metrics.jsonl")] == [
        line["loss"] for line in read_lines(without / "metrics.jsonl")
    ]


def test_it_resumes_exactly_and_begins_at_the_weights_where_a_checkpoint_has_none(small: Small, tmp_path: Path) -> None:
    whole = run(small(2, *EMA, "run.steps=4", f"output_dir={tmp_path / 'whole'}"))
    run(small(2, *EMA, "run.steps=2"))
    assert same(model(run(small(2, *EMA, "run.steps=4")) / "ema"), model(whole / "ema"))
    later = f"output_dir={tmp_path / 'later'}"
    run(small(2, *EMA[1:], "run.steps=2", later))
    folder = run(small(2, *EMA, "run.steps=4", later))
    assert same(saved(folder, 4, "ema"), averages(saved(folder, 2, "weight"), folder, range(3, 5)))
    assert not same(saved(folder, 4, "ema"), saved(folder, 4, "weight"))


def test_it_is_validated_and_the_best_average_is_kept(small: Small, tmp_path: Path) -> None:
    recipe = f"data.recipe={held_out_recipe(tmp_path)}"
    config = small(2, *EMA, *VALIDATE, recipe, "run.steps=2", "run.keep_best=validation_ema/loss")
    folder = run(config)
    last = read_lines(folder / "metrics.jsonl")[-1]
    encoder = Encoder(load_tokenizer(folder / "ema"), config.model.tokens_per_image, config.model.image_size, "")
    blocks = blocks_of(held_out_sources(open_recipe(config), 6))
    documents = [d for block in blocks for d, _ in read_documents(block, encoder, 256) if d is not None]
    shape = ImageShape(encoder.tokens_per_image, encoder.image_size, encoder.generation_image_size)
    for name, prefix in (("final", "validation"), ("ema", "validation_ema")):
        janus = PackedJanus(JanusForConditionalGeneration.from_pretrained(folder / name))
        losses = losses_by_source(janus, documents, 256, shape, "cpu")
        for source, totals in losses.items():
            assert last[f"{prefix}/source/{source}"] == pytest.approx(totals.mean, rel=1e-6), (name, source)
    assert last["validation_ema/loss"] != last["validation/loss"]
    assert json.loads((folder / "final/training.json").read_text())["best"]["folder"] == "ema"  # its losses fall
    manifest = json.loads((folder / "manifest.json").read_text())
    metrics = read_lines(folder / "metrics.jsonl")
    metrics[0]["validation_ema/loss"] = 0.5  # as if the first step had been the best
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"finished": False}))
    run(config)
    best = model(folder / "best")
    assert all(torch.equal(best[name].flatten(), tensor) for name, tensor in saved(folder, 1, "ema").items())


@pytest.mark.parametrize("decay", ["0", "1", "1.5", "often"])
def test_what_is_no_decay_is_refused(small: Small, decay: str) -> None:
    with pytest.raises(UserError, match=r"run\.ema"):
        small(2, f"run.ema={decay}")


def test_backends_of_two_processes_average_as_one_process(random_base: Path, tmp_path: Path) -> None:
    """Each resumes where one process was stopped, and validates; in bf16, where ZeRO-2 has its weights twice, training
    is to the bit as without."""
    recipe = held_out_recipe(tmp_path)
    common = ["+stage=2", *SMALL, *VALIDATE, f"init_from={random_base}", f"data.recipe={recipe}", "optim.eps=1e-6"]
    common += ["run.planned_steps=3", "batch.micro_rows=1", "run.checkpoint_every=2"]

    def overrides(name: str, *more: str) -> list[str]:
        return [*common, f"output_dir={tmp_path / name}", f"run.ema={DECAY}", "run.steps=3", *more]

    names = ("ddp", "zero2", "zero3", "fsdp2")
    for name in names:
        run(config_of(*overrides(name, "run.steps=2")))
    whole = run(config_of(*overrides("whole")))
    bf16 = {"zero2-with": (), "zero2-without": ("run.ema=null",)}
    cases: list[dict[str, Any]] = [
        {"name": name, "kind": "run", "backend": name, "overrides": overrides(name)} for name in names
    ]
    for name, more in bf16.items():
        words = overrides(name, "precision=bf16", *more)
        cases.append({"name": name, "kind": "run", "backend": "zero2", "overrides": words})
    with serving(run_cases, cases, world_size=2, log=tmp_path / "log", OMP_NUM_THREADS="1") as ranks:
        ready = wait(ranks, timeout=600)
        results = [rank.recv() for rank in ranks if ready and rank.poll(60)]
    assert len(results) == 2 and not [r for r in results[0].values() if "error" in r], results
    wanted, last = model(whole / "ema"), read_lines(whole / "metrics.jsonl")[-1]
    for name in names:
        found = model(tmp_path / name / "ema")
        assert max((found[key] - wanted[key]).abs().max().item() for key in wanted) < 1e-5, name
        line = read_lines(tmp_path / name / "metrics.jsonl")[-1]
        assert line["validation_ema/loss"] == pytest.approx(last["validation_ema/loss"], rel=1e-5), name
    a, b = ([(x["loss"], x["validation/loss"]) for x in read_lines(tmp_path / n / "metrics.jsonl")] for n in bf16)
    assert a == b
    assert same(model(tmp_path / "zero2-with/final"), model(tmp_path / "zero2-without/final"))
