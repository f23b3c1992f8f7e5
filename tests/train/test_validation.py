"""Validation while training: exact, the same for any number of processes, and without any effect on the training."""

from __future__ import annotations

import json
import shutil
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
from janus_train.data.held_out import blocks_of, held_out_sources, is_held_out, read_documents
from janus_train.data.loader import open_recipe
from janus_train.errors import UserError
from janus_train.interop.processor import load_tokenizer
from janus_train.model.document_losses import ImageShape, losses_by_source
from janus_train.model.janus import PackedJanus
from janus_train.train.monitor import trackers
from janus_train.train.run import run as train
from tests.helpers import Run, config_of, make_shard, read_lines
from tests.processes import serving
from tests.train.backend_worker import run_cases
from tests.train.conftest import SMALL
from tests.train.validating import NUM_SCENES, SHARE, held_out_recipe

Small = Callable[..., Config]
EVERY_2 = ("run.validate_every=2", "run.validation_samples=12")


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return f"data.recipe={held_out_recipe(tmp_path)}"


def lines(folder: Path) -> list[dict[str, Any]]:
    return read_lines(folder / "metrics.jsonl")


def validated(folder: Path) -> dict[int, dict[str, Any]]:
    """Per step that was validated its values, without how long it took."""
    found = {}
    for line in lines(folder):
        values = {k: v for k, v in line.items() if k.startswith("validation/") and k != "validation/seconds"}
        if values:
            found[line["step"]] = values
    return found


def trained(folder: Path) -> list[tuple[Any, ...]]:
    return [(line["loss"], line["grad_norm"], line["batch_digest"], line["held_out"]) for line in lines(folder)]


def test_the_losses_are_those_of_the_held_out_samples_under_the_steps_weights(small: Small, recipe: str) -> None:
    config = small(2, recipe, "run.steps=3", *EVERY_2)
    folder = train(config)
    found = validated(folder)
    assert sorted(found) == [2, 3]  # each second step and the last one
    model = PackedJanus(JanusForConditionalGeneration.from_pretrained(folder / "final"))
    encoder = Encoder(load_tokenizer(folder / "final"), config.model.tokens_per_image, config.model.image_size, "")
    sources = held_out_sources(open_recipe(config), 12)
    documents = [d for block in blocks_of(sources) for d, _ in read_documents(block, encoder, 256) if d is not None]
    shape = ImageShape(encoder.tokens_per_image, encoder.image_size, encoder.generation_image_size)
    wanted = losses_by_source(model, documents, 64, shape, "cpu")  # rows of another length
    last = found[3]
    for name in ("text_to_image", "image_to_text"):  # texts are cut at a row's end
        assert last[f"validation/source/{name}"] == pytest.approx(wanted[name].mean, rel=1e-5)
    assert last["validation/loss/generation"] == last["validation/source/text_to_image"]
    assert last["validation/loss_tokens"] == sum(sum(totals.counts.values()) for totals in wanted.values())
    assert last["validation/samples"] == len(documents) == 12 * 3 + 5
    kinds = {"understanding": 1, "text": 2, "generation": 1}
    assert {key for key in last if key.startswith("validation/loss/")} == {f"validation/loss/{kind}" for kind in kinds}
    assert found[2]["validation/loss"] != last["validation/loss"]


def test_training_is_as_without(small: Small, recipe: str, tmp_path: Path) -> None:
    """Losses, batches, weights and the generator's state; and the time of a validation is not the step's."""
    steps = ("run.steps=4", recipe)
    without = train(small(2, *steps, f"output_dir={tmp_path / 'without'}"))
    state = torch.get_rng_state()
    with_it = train(small(2, *steps, "run.validate_every=1"))
    assert torch.equal(torch.get_rng_state(), state)
    assert trained(with_it) == trained(without)
    a, b = (load_file(folder / "final/model.safetensors") for folder in (without, with_it))
    assert all(torch.equal(a[name], b[name]) for name in a)
    for line in lines(with_it):
        assert line["validation/seconds"] > line["step_s"] > 0
        assert line["tokens_per_s"] == pytest.approx(line["tokens"] / line["step_s"])


def test_no_held_out_sample_is_trained_on(small: Small, recipe: str, run: Run) -> None:
    """By what `inspect` says of the same steps, over more than an epoch of each source, and by the log."""
    words = ["+stage=2", recipe, "batch.rows_per_step=2", "batch.row_tokens=512", "data.num_workers=0"]
    code, output, said = run("inspect", *words, "run.steps=60", "--steps", 60)
    assert code == 0
    samples = [sample for line in output.splitlines() for sample in json.loads(line)["samples"]]
    assert len({sample["key"] for sample in samples}) > 100
    assert not [sample for sample in samples if is_held_out(sample["key"], SHARE)]
    passed_over = int(said.split(" samples are held out")[0].split()[-1])
    assert passed_over > 0.5 * SHARE * len(samples)


def test_a_resumed_run_validates_as_one_that_was_not_interrupted(small: Small, recipe: str, tmp_path: Path) -> None:
    plan = (recipe, *EVERY_2, "run.checkpoint_every=1", "run.planned_steps=6")
    whole = train(small(2, *plan, "run.steps=6", f"output_dir={tmp_path / 'whole'}"))
    first = train(small(2, *plan, "run.steps=5"))
    shutil.rmtree(first / "checkpoints/step-000005")
    resumed = train(small(2, *plan, "run.steps=6", "data.num_workers=1"))
    assert validated(resumed) == validated(whole) and sorted(validated(whole)) == [2, 4, 6]
    assert trained(resumed) == trained(whole)


def test_another_share_is_another_run(small: Small, tmp_path: Path) -> None:
    train(small(2, f"data.recipe={held_out_recipe(tmp_path)}", "run.steps=1"))
    path = tmp_path / "held_out.yaml"
    path.write_text(path.read_text().replace(f"held_out: {SHARE}", "held_out: 0.1"))
    with pytest.raises(UserError, match=r"with other settings \(data digest of recipe"):
        train(small(2, f"data.recipe={path}", "run.steps=2"))


def test_what_was_used_is_said(small: Small, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The number of each source, the samples that cannot be used, the values, and where they go."""
    make_shard(tmp_path / "texts.tar", {f"t{i}.json": {"text": "word" * (i % 4)} for i in range(8)})
    more = {"name": "more", "kind": "text", "type": "shards", "template": "text", "paths": ["texts.tar"]}
    recipe = held_out_recipe(tmp_path, validation=[more])
    sent: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trackers.Trackers, "log", lambda _, metrics: sent.append(metrics))
        folder = train(small(2, f"data.recipe={recipe}", "run.steps=2", *EVERY_2))
    said = capfd.readouterr().err
    assert f"source 'text_to_image' holds out 20 % of its {NUM_SCENES} samples" in said
    assert "validates on held-out samples: 12 of 'text_to_image', 12 of 'image_to_text', 12 of 'definitions', 6 of 'more'" in said  # fmt: skip
    assert "source 'more': 2 of its held-out samples cannot be used, the first is 't" in said
    last = validated(folder)[2]
    assert f"step 2: validation loss {last['validation/loss']:.3f}  loss/understanding " in said
    assert "on 42 held-out samples in" in said
    assert sent[-1]["validation/loss"] == last["validation/loss"] and "validation/loss" not in sent[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": [], "held_out": 0}, r"run\.validate_every=2 needs samples that are held out: give a source"),
        ({"held_out": 1e-9}, r"source 'text_to_image': held_out: 1e-09 holds out none of its 150 samples"),
        ({"texts": ""}, r"none of the held-out samples can be used"),
    ],
)
def test_nothing_to_validate_on_is_refused_before_anything_is_written(
    small: Small, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = held_out_recipe(tmp_path, **{key: value for key, value in changes.items() if key == "validation"})
    share = changes.get("held_out", 0)
    path.write_text(path.read_text().replace(f"held_out: {SHARE}", f"held_out: {share:.9f}"))
    if "texts" in changes:
        make_shard(tmp_path / "texts.tar", {"t.json": {"text": ""}})
        more = {"name": "more", "kind": "text", "type": "shards", "template": "text", "paths": ["texts.tar"]}
        path = held_out_recipe(tmp_path, validation=[more])
        path.write_text(path.read_text().replace(f"held_out: {SHARE}", "held_out: 0.0"))
    with pytest.raises(UserError, match=message) as error:
        train(small(2, f"data.recipe={path}", *EVERY_2))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_compiled_run_validates_uncompiled(small: Small, recipe: str, tmp_path: Path) -> None:
    plain = train(small(2, recipe, "run.steps=2", *EVERY_2, f"output_dir={tmp_path / 'plain'}", "run.compile=false"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("janus_train.model.compile.BACKEND", "aot_eager")
        torch._dynamo.reset()
        compiled = train(small(2, recipe, "run.steps=2", *EVERY_2, "run.compile=true"))
        torch._dynamo.reset()
    assert validated(compiled)[2]["validation/loss"] == pytest.approx(validated(plain)[2]["validation/loss"], rel=1e-5)


def test_adapters_are_validated_without_their_dropout(small: Small, recipe: str, tmp_path: Path) -> None:
    lora = ("+peft=lora", "peft.rank=4", "peft.dropout=0.5", "train_parts=[]", "run.steps=2", *EVERY_2, recipe)
    first = validated(train(small(2, *lora)))
    assert first == validated(train(small(2, *lora, f"output_dir={tmp_path / 'again'}", "run.sample_every=1")))
    whole = train(
        small(2, recipe, "run.steps=2", *EVERY_2, f"output_dir={tmp_path / 'rate'}", "optim.learning_rate=1e-30")
    )
    # adapters begin as nothing: after a step at no rate they still are, whatever dropout does to their inputs
    still = train(small(2, *lora, "optim.learning_rate=1e-30", f"output_dir={tmp_path / 'still'}"))
    assert validated(still)[2]["validation/loss"] == pytest.approx(validated(whole)[2]["validation/loss"], rel=1e-6)


class Group:
    """The same run on some backends, by ``world_size`` processes."""

    def __init__(self, base: Path, folder: Path, recipe: Path):
        self.base, self.folder, self.recipe = base, folder, recipe

    def overrides(self, name: str, *more: str) -> list[str]:
        given = ["batch.rows_per_step=4", "batch.micro_rows=1", "run.steps=3", "optim.eps=1e-6"]
        given += ["run.validate_every=1", "run.checkpoint_every=1", "run.validation_samples=20"]
        places = [f"init_from={self.base}", f"data.recipe={self.recipe}", f"output_dir={self.folder / name}"]
        return ["+stage=2", *SMALL, *given, *places, *more]

    def start(self, names: dict[str, str], world_size: int, *more: str) -> None:
        cases = [
            {"name": name, "kind": "run", "backend": backend, "overrides": self.overrides(name, *more)}
            for name, backend in names.items()
        ]
        log = self.folder / f"log-{world_size}"
        with serving(run_cases, cases, world_size=world_size, log=log, OMP_NUM_THREADS="1") as ranks:
            ready = wait(ranks, timeout=600)
            results = [rank.recv() for rank in ranks if ready and rank.poll(60)]
        assert len(results) == world_size
        assert not [result for result in results[0].values() if "error" in result], results[0]


@pytest.fixture(scope="module")
def group(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Group:
    folder = tmp_path_factory.mktemp("validation")
    return Group(random_base, folder, held_out_recipe(folder))


def test_backends_of_two_processes_validate_as_one_process(group: Group) -> None:
    """With sharded weights too, while checkpoints are saved; and what is trained is that of a run without validation."""
    reference = train(config_of(*group.overrides("one", "batch.micro_rows=4")))
    without = train(config_of(*group.overrides("without", "run.validate_every=0")))
    names = {"ddp": "ddp", "zero2": "zero2", "zero3": "zero3", "fsdp2": "fsdp2"}
    group.start(names, 2)
    wanted = validated(reference)
    for name in names:
        found = validated(group.folder / name)
        assert found.keys() == wanted.keys() == {1, 2, 3}
        for step, values in wanted.items():
            for key, value in values.items():
                assert found[step][key] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), key
        for line, other in zip(trained(group.folder / name), trained(without), strict=True):
            assert line[:2] == pytest.approx(other[:2], rel=1e-4) and line[2:] == other[2:]


def test_the_values_of_given_weights_are_the_same_to_the_bit(group: Group) -> None:
    """At a rate of nothing all runs have the start's weights: 1 and 2 processes, with 4, 1 and 2 rows at a time."""
    still = ("optim.learning_rate=1e-30", "run.steps=2")
    wanted = validated(train(config_of(*group.overrides("still-one", "batch.micro_rows=4", *still))))
    assert wanted[1] == wanted[2]
    group.start({"still-ddp": "ddp", "still-fsdp2": "fsdp2", "still-zero3": "zero3"}, 2, *still, "batch.micro_rows=2")
    for name in ("still-ddp", "still-fsdp2", "still-zero3"):
        assert validated(group.folder / name) == wanted, name


@pytest.mark.slow
def test_four_processes_are_the_same_to_the_bit_too(group: Group) -> None:
    still = ("optim.learning_rate=1e-30", "run.steps=2")
    wanted = validated(train(config_of(*group.overrides("four-one", *still))))
    group.start({"four-ddp": "ddp", "four-fsdp2": "fsdp2"}, 4, *still)
    for name in ("four-ddp", "four-fsdp2"):
        assert validated(group.folder / name) == wanted, name
