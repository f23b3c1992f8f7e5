"""Whole runs in this process: what trains, what is frozen, what is written, how a run resumes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch._dynamo.testing import CompileCounterWithBackend

from janus_train import report
from janus_train.config import Config
from janus_train.data.types import KINDS
from janus_train.errors import UserError
from janus_train.files import write_json
from janus_train.infer import generate
from janus_train.infer.decoding import Decoder
from janus_train.interop.card import model_card
from janus_train.interop.model_folder import open_folder
from janus_train.interop.run_record import read_run
from janus_train.model import compile as compiling
from janus_train.model.parts import is_named, part_of
from janus_train.train.checkpoint import store
from janus_train.train.run import fit_micro_rows, run
from tests.helpers import config_of, encoded, make_shard, plain_image, read_lines
from tests.train.conftest import SMALL

Small = Callable[..., Config]
TIMES = {"tokens_per_s", "mfu", "mfu_6n", "data_wait_s", "step_s"}


def lines(folder: Path) -> list[dict[str, Any]]:
    return read_lines(folder / "metrics.jsonl")


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines(folder)]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_frozen_is_frozen_and_trained_is_trained(small: Small, random_base: Path, stage: int) -> None:
    config = small(stage, "run.steps=3")
    folder = run(config)
    before, after = load_file(random_base / "model.safetensors"), load_file(folder / "final/model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        same = torch.equal(tensor, after[name])
        assert same == (part_of(name) not in config.train_parts), name
    found = store.newest_checkpoint(folder)
    assert found is not None
    stored = [key.split("/") for key in load_file(found.folder / "rank-00000.safetensors")]
    names = {name for kind, name in stored if kind == "weight"}
    assert {part_of(name) for name in names} == set(config.train_parts)
    assert sorted(stored) == sorted([kind, name] for name in names for kind in ("weight", "exp_avg", "exp_avg_sq"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {part for part, row in manifest["parts"].items() if row["trains"]} == set(config.train_parts)


PIECES = "train_parts=[image_head,understanding_encoder.layers.2,language_model.layers.2-,language_model.lm_head]"


def test_layers_train_alone_and_the_run_says_which(small: Small, random_base: Path, tmp_path: Path) -> None:
    """In bf16 with recomputation and an average: what is frozen has the start's bytes, in the average's model too."""
    options = ("precision=bf16", "memory.activation_checkpointing=full", "run.ema=0.5", "run.sample_every=2")
    plan = ("run.planned_steps=3", "run.checkpoint_every=1", *options)
    folder = run(small(3, PIECES, "run.steps=2", *plan), write_report=report.build)
    names = PIECES.partition("[")[2].rstrip("]").split(",")
    before = load_file(random_base / "model.safetensors")
    for result in ("final", "ema"):
        after = load_file(folder / result / "model.safetensors")
        assert {name for name in before if not before[name].equal(after[name])} == {
            n for n in before if is_named(n, names)
        }
    checkpoint = store.newest_checkpoint(folder)
    assert checkpoint is not None
    stored = {key.partition("/")[2] for key in load_file(checkpoint.folder / "rank-00000.safetensors")}
    assert stored == {name for name in before if is_named(name, names)}
    rows = json.loads((folder / "manifest.json").read_text())["parts"]
    assert rows["language_model"]["pieces"] == ["layers.2-3", "lm_head"]
    assert rows["understanding_encoder"]["pieces"] == ["layers.2"] and "pieces" not in rows["image_head"]
    trained = {part: row.get("trained_parameters", row["parameters"]) for part, row in rows.items() if row["trains"]}
    assert sum(trained.values()) == sum(before[name].numel() for name in stored)
    card = model_card(open_folder(folder / "final").config, read_run(folder / "final"), "hf")
    assert "image_head, language_model (layers.2-3, lm_head)" in card
    assert "trained: layers.2-3, lm_head" in (folder / "report.html").read_text()
    resumed = run(small(3, PIECES, "run.steps=3", *plan))
    whole = run(small(3, PIECES, "run.steps=3", *plan, f"output_dir={tmp_path / 'whole'}"))
    assert same_weights(resumed / "ema", whole / "ema") and same_weights(resumed / "final", whole / "final")


def same_weights(one: Path, other: Path) -> bool:
    weights, others = (load_file(path / "model.safetensors") for path in (one, other))
    return weights.keys() == others.keys() and all(weights[name].equal(others[name]) for name in weights)


def test_a_run_does_not_resume_with_other_layers_or_rates(small: Small, random_base: Path, tmp_path: Path) -> None:
    plan = ("run.planned_steps=3", "run.checkpoint_every=1", "optim.parts={image_head: {learning_rate: 1e-5}}")
    folder = run(small(3, PIECES, *plan, "run.steps=1"))
    assert {key: value for key, value in lines(folder)[0].items() if key.startswith("learning_rate/")}.keys() == {
        "learning_rate/image_head"
    }
    with pytest.raises(UserError, match=r"optim\.parts\.image_head\.learning_rate 1e-05 -> 2e-05"):
        run(small(3, PIECES, *plan[:2], "optim.parts={image_head: {learning_rate: 2e-5}}", "run.steps=2"))
    other = "train_parts=[image_head,language_model.layers.1-]"
    with pytest.raises(
        UserError, match=r"train_parts \['image_head', .* -> \['image_head', 'language_model.layers.1-'\]"
    ):
        run(small(3, other, *plan, "run.steps=2"))
    with pytest.raises(UserError, match=r"cannot resume with other train_parts; start a new one") as error:
        run(small(3, other, *plan, "run.steps=2", "resume=force"))
    assert "\n" not in str(error.value)
    base = tmp_path / "base"
    shutil.copytree(random_base, base)
    weights = load_file(base / "model.safetensors")
    for name, refused in (("lm_head.weight", False), ("model.language_model.layers.0.mlp.up_proj.weight", True)):
        save_file(weights | {name: weights[name] + 1}, base / "model.safetensors")
        if refused:
            with pytest.raises(UserError, match="trained with another language_model"):
                run(small(3, PIECES, *plan, "run.steps=3", f"init_from={base}"))
        else:  # it trains, so that the checkpoint has it
            run(small(3, PIECES, *plan, "run.steps=2", f"init_from={base}"))


def test_a_runs_folder_holds_what_the_design_names(small: Small) -> None:
    folder = run(small(2, "run.steps=2", "run.sample_every=2"), write_report=report.build)
    for name in (
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "report.html",
        "samples/step-000002.png",
        "checkpoints/step-000002",
        "final/config.json",
    ):
        assert (folder / name).exists(), name
    line = lines(folder)[-1]
    wanted = [
        "step",
        "loss",
        "tokens",
        "fill",
        "learning_rate",
        "grad_norm",
        "tokens_per_s",
        "flops",
        "mfu",
        "mfu_6n",
        "data_wait_s",
        "step_s",
        "batch_digest",
    ]
    wanted += [f"{what}/{kind}" for what in ("loss", "samples", "tokens") for kind in KINDS]
    assert not set(wanted) - set(line)
    assert [entry["step"] for entry in lines(folder)] == [1, 2]
    assert not [p for p in folder.rglob("*") if p.name.endswith(".part")]


def test_the_result_loads_with_transformers(small: Small) -> None:
    """Also without the model: what `generate` needs to draw is in its generation_config.json."""
    from transformers import AutoTokenizer, GenerationConfig, JanusForConditionalGeneration

    folder = run(small(1, "run.steps=1")) / "final"
    janus, info = JanusForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    drawing, special = GenerationConfig.from_pretrained(folder), open_folder(folder).special
    assert drawing.generation_kwargs == {"boi_token_id": special.begin_of_image, "eoi_token_id": special.end_of_image}
    stored = json.loads((folder / "generation_config.json").read_text())
    assert "_from_model_config" not in stored and stored["guidance_scale"] and stored["temperature"]
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert not janus.config.tie_word_embeddings
    assert len(AutoTokenizer.from_pretrained(folder)) <= janus.config.text_config.vocab_size


def test_a_compiled_run_is_the_plain_one(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, images drawn in between, checkpoint and result; all steps by one compilation, and a resumed run's too."""
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(compiling, "BACKEND", counter)
    torch._dynamo.reset()
    common = ("run.checkpoint_every=2", "run.sample_every=2", "data.num_workers=0")
    plain = run(small(3, "run.steps=4", "run.compile=false", f"output_dir={tmp_path / 'plain'}", *common))
    stopped = ("run.compile=true", f"output_dir={tmp_path / 'compiled'}", "run.planned_steps=4", *common)
    compiled = run(small(3, "run.steps=2", *stopped))
    assert counter.frame_count == 2  # a layer, and the text loss's pointwise part
    assert run(small(3, "run.steps=4", *stopped)) == compiled
    for got, wanted in zip(lines(compiled), lines(plain), strict=True):
        assert got["batch_digest"] == wanted["batch_digest"]
        assert got["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert got["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-4)
        assert got["flops"] == wanted["flops"]
    before, after = (load_file(folder / "final/model.safetensors") for folder in (plain, compiled))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=5e-4, msg=name)
    torch._dynamo.reset()


@pytest.mark.parametrize("stage", [1, 2])
def test_a_bf16_run_previews_with_the_cache_of_a_gpu(small: Small, monkeypatch: pytest.MonkeyPatch, stage: int) -> None:
    """Under autocast, with steps of fixed shapes; stage 1 has frozen weights in bf16, stage 2 trains the language model."""
    monkeypatch.setattr(generate, "Decoder", partial(Decoder, fixed=True))
    folder = run(small(stage, "run.steps=1", "run.sample_every=1", "precision=bf16"))
    with Image.open(folder / "samples/step-000001.png") as preview:
        assert len(preview.getcolors(maxcolors=2**24)) > 1000


def test_a_compiler_that_fails_is_one_line(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("ptxas was not found\nand more")

    monkeypatch.setattr(compiling, "BACKEND", fails)
    torch._dynamo.reset()
    with pytest.raises(UserError, match=r"^[^\n]*ptxas was not found[^\n]*run\.compile=false[^\n]*$"):
        run(small(2, "run.steps=1", "run.compile=true"))
    torch._dynamo.reset()


def test_one_seed_one_run_another_seed_another(small: Small, tmp_path: Path) -> None:
    first = timeless(run(small(2, "run.steps=3")))
    assert timeless(run(small(2, "run.steps=3", f"output_dir={tmp_path / 'again'}"))) == first
    other = timeless(run(small(2, "run.steps=3", f"output_dir={tmp_path / 'other'}", "seed=1")))
    assert [line["batch_digest"] for line in other] != [line["batch_digest"] for line in first]
    assert other[0]["loss"] != first[0]["loss"]


@pytest.mark.parametrize(("stage", "shares"), [(1, (0.25, 0, 0.75)), (2, (0.2, 0.3, 0.5)), (3, (0.5, 0.1, 0.4))])
def test_every_logged_step_has_the_stages_ratio(small: Small, stage: int, shares: tuple[float, ...]) -> None:
    rows = 4
    folder = run(small(stage, "run.steps=4", f"batch.rows_per_step={rows}", "batch.row_tokens=512"))
    for line in lines(folder):
        counts = [line[f"samples/{kind}"] for kind in KINDS]
        for count, share in zip(counts, shares, strict=True):
            assert abs(count - share * sum(counts)) <= rows


def test_resume_gives_the_same_batches_losses_and_weights(small: Small, tmp_path: Path) -> None:
    whole = run(small(2, "run.steps=6", f"output_dir={tmp_path / 'whole'}"))
    first = run(small(2, "run.steps=3", "run.checkpoint_every=2"))
    shutil.rmtree(first / "final")
    shutil.rmtree(first / "checkpoints/step-000003")  # as if killed after step 3: resume from step 2
    with (first / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # and in the midst of a line
    manifest = json.loads((first / "manifest.json").read_text())
    (first / "manifest.json").write_text(json.dumps(manifest | {"finished": False}))
    resumed = run(small(2, "run.steps=6", "data.num_workers=1"))
    assert timeless(resumed) == timeless(whole)
    a, b = (load_file(folder / "final/model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_going_back_before_a_spike_leaves_out_the_named_steps_alone(small: Small, tmp_path: Path) -> None:
    """The procedure of docs/training.md: the checkpoints after step 2 go, and steps 3 and 5 are not trained on."""
    plan = ("run.checkpoint_every=1", "run.planned_steps=6", "run.keep_checkpoints=9")
    folder = run(small(2, *plan, "run.steps=5"))
    spiked = lines(folder)
    for step in (3, 4, 5):
        shutil.rmtree(folder / f"checkpoints/step-{step:06d}")
    run(small(2, *plan, "run.steps=6", "run.skip_steps=[3,5]"))
    found = lines(folder)
    assert [line["applied"] for line in found] == [True, True, False, True, False, True]
    assert [line["loss"] is None for line in found] == [False, False, True, False, True, False]
    assert [line["batch_digest"] for line in found[:5]] == [line["batch_digest"] for line in spiked]
    assert found[:2] == spiked[:2] and found[3]["loss"] != spiked[3]["loss"]
    assert not (folder / "bad_steps.jsonl").exists()  # they were not judged
    before, after, later = (load_file(p) for p in (folder / f"checkpoints/step-{s:06d}/rank-00000.safetensors" for s in (2, 3, 4)))  # fmt: skip
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not all(torch.equal(after[name], later[name]) for name in after)


def test_a_damaged_checkpoint_is_passed_over(three_steps: Path) -> None:
    folder = three_steps
    weights = folder / "checkpoints/step-000003/rank-00000.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    checkpoint = store.newest_checkpoint(folder)
    assert checkpoint is not None and checkpoint.step == 2
    for step in (1, 2):
        (folder / f"checkpoints/step-{step:06d}/manifest.json").unlink()
    assert store.newest_checkpoint(folder) is None


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def damage(folder: Path, step: int) -> None:
    (folder / f"checkpoints/step-{step:06d}/rank-00000.safetensors").write_bytes(b"damaged")


THREE = ("run.planned_steps=6", "run.checkpoint_every=1", "run.keep_checkpoints=9", "run.steps=3")


@pytest.fixture(scope="module")
def trained(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of stage 2 after `THREE`: three steps, each of them saved."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return run(config_of("+stage=2", f"init_from={random_base}", f"output_dir={folder}", *SMALL, *THREE))


@pytest.fixture
def three_steps(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` where `small` goes on."""
    return shutil.copytree(trained, tmp_path / "run")


def test_a_damaged_newest_checkpoint_is_named_and_kept(
    small: Small, three_steps: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The run goes on from the one before, and what was passed over goes when a later one is committed, not sooner."""
    folder = three_steps
    first = lines(folder)
    damage(folder, 3)
    damage(folder, 2)
    capfd.readouterr()
    run(small(2, *THREE, "run.steps=2"))  # finished: nothing is looked at
    assert (folder / "checkpoints/step-000003").is_dir()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"finished": False}))
    run(small(2, *THREE, "run.steps=2"))
    said = capfd.readouterr().err
    assert "starts from its checkpoint" in said and "step-000001" in said
    for step in (2, 3):
        assert f"warning: checkpoint {folder}/checkpoints/step-{step:06d} is not valid (rank-00000.safetensors has 7 bytes" in said  # fmt: skip
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "step-000001",
        "step-000002",
        "step-000003.invalid",
    ]
    run(small(2, *THREE, "run.steps=4"))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [f"step-{s:06d}" for s in (1, 2, 3, 4)]
    assert [line["batch_digest"] for line in lines(folder)[:3]] == [line["batch_digest"] for line in first]


def test_a_checkpoint_that_cannot_be_read_ends_the_start_and_changes_nothing(
    small: Small, three_steps: Path, tmp_path: Path
) -> None:
    folder = three_steps
    weights = folder / "checkpoints/step-000003/rank-00000.safetensors"
    weights.rename(tmp_path / "away")
    weights.symlink_to(tmp_path / "elsewhere")
    before = everything(folder)
    for resume in ("true", "force", "restart"):
        with pytest.raises(UserError, match=f"checkpoint {weights} cannot be read") as error:
            run(small(2, *THREE, "run.steps=4", f"resume={resume}"))
        assert "\n" not in str(error.value)
    assert everything(folder) == before and weights.is_symlink()
    (tmp_path / "away").rename(tmp_path / "elsewhere")
    run(small(2, *THREE, "run.steps=4"))
    assert [line["step"] for line in lines(folder)] == [1, 2, 3, 4]


def test_no_valid_checkpoint_is_refused_unless_told_to_restart(
    small: Small, three_steps: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = three_steps
    for step in (1, 2, 3):
        damage(folder, step)
    before = everything(folder)
    with pytest.raises(UserError, match=r"no valid checkpoint \(step-000003: .*and 2 more.*resume=restart") as error:
        run(small(2, *THREE, "run.steps=4"))
    assert "\n" not in str(error.value) and everything(folder) == before
    capfd.readouterr()
    run(small(2, *THREE, "run.steps=4", "resume=restart"))
    assert f"the existing files are now in {folder}/restart-1" in capfd.readouterr().err
    kept = everything(folder / "restart-1")
    assert all(kept[name] == data for name, data in before.items() if "tensorboard" not in name)
    whole = run(small(2, *THREE, "run.steps=4", f"output_dir={tmp_path / 'whole'}"))
    assert timeless(folder) == timeless(whole)


def test_restart_goes_on_where_a_checkpoint_is_valid(small: Small, three_steps: Path) -> None:
    """So that a job that is requeued with the same words does not begin anew each time."""
    folder = three_steps
    first = lines(folder)
    run(small(2, *THREE, "run.steps=4", "resume=restart"))
    assert lines(folder)[:3] == first and not (folder / "restart-1").exists()


def test_checkpoints_without_the_runs_manifest_are_not_written_over(
    small: Small, three_steps: Path, tmp_path: Path
) -> None:
    folder = three_steps
    manifest = folder / "manifest.json"
    data = manifest.read_bytes()
    manifest.unlink()
    before = everything(folder)
    with pytest.raises(UserError, match=r"step-000003\) but no manifest\.json"):
        run(small(2, *THREE))
    manifest.symlink_to(tmp_path / "away")
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        run(small(2, *THREE))
    manifest.unlink()
    for damaged in (b"", b"[]", data[: len(data) // 2]):
        manifest.write_bytes(damaged)
        with pytest.raises(UserError, match=r"manifest\.json is damaged"):
            run(small(2, *THREE))
    manifest.unlink()
    assert everything(folder) == before
    run(small(2, *THREE, "resume=restart"))
    assert everything(folder / "restart-1") == before


def test_keys_that_look_like_ends_of_lines_survive_a_resume(small: Small, three_steps: Path) -> None:
    folder = three_steps
    raw = "".join(json.dumps({"step": s, "key": "a\u2028b\x85c"}, ensure_ascii=False) + "\n" for s in (1, 2, 3, 4))
    (folder / "quarantine.jsonl").write_text(raw, encoding="utf-8")  # as older versions wrote them
    run(small(2, *THREE, "run.steps=4"))
    assert [line["step"] for line in read_lines(folder / "quarantine.jsonl")] == [1, 2, 3]


def test_old_checkpoints_go(small: Small) -> None:
    folder = run(small(1, "run.steps=4", "run.checkpoint_every=1", "run.keep_checkpoints=2"))
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-000003", "step-000004"]


def test_a_finished_run_says_so_and_does_nothing(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(small(1, "run.steps=1"))
    stamp = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    run(small(1, "run.steps=1"))
    assert "is finished at step 1" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == stamp


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1"], "seed 0 -> 1"),
        (["batch.rows_per_step=4"], "batch.rows_per_step 2 -> 4"),
        (["ratio.text=4"], "ratio.text 3 -> 4"),
        (["resume=false"], "resume=false"),
        (["data.guidance_dropout=0.2"], "data.guidance_dropout 0.1 -> 0.2"),
    ],
)
def test_going_on_with_other_settings_is_refused(
    small: Small, three_steps: Path, overrides: list[str], message: str
) -> None:
    before = everything(three_steps)
    with pytest.raises(UserError, match=message):
        run(small(2, *THREE, "run.steps=4", *overrides))
    assert everything(three_steps) == before


def test_a_run_of_a_version_without_newer_options_goes_on(small: Small) -> None:
    folder = run(small(2, "run.planned_steps=3", "run.checkpoint_every=1", "run.steps=2"))
    manifest = json.loads((folder / "manifest.json").read_text())
    for key in ("min_lr_ratio", "decay_steps", "decay_type", "parts"):
        del manifest["config"]["optim"][key]
    del manifest["config"]["data"]["editing_dropout"]
    write_json(folder / "manifest.json", manifest)
    decay = ("optim.schedule=linear", "optim.min_lr_ratio=0.1")
    with pytest.raises(UserError, match=r"\(optim\.min_lr_ratio 0\.0 -> 0\.1; optim\.schedule constant -> linear\)"):
        run(small(2, "run.planned_steps=3", "run.steps=3", *decay))
    run(small(2, "run.planned_steps=3", "run.steps=3"))
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [1, 2, 3]


def test_forced_settings_go_on_from_where_the_data_was(small: Small, capfd: pytest.CaptureFixture[str]) -> None:
    """With another number of streams and another ratio: said, written down, and no sample drawn twice in an epoch."""
    plan = ("run.planned_steps=4", "run.checkpoint_every=1")
    folder = run(small(2, *plan, "run.steps=2"))
    state = json.loads((folder / "checkpoints/step-000002/state.json").read_text())["streams"]
    drawn = sum(stream["draws"]["text_to_image"] for stream in state.values())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["versions"]["pillow"] == version("pillow")
    write_json(folder / "manifest.json", manifest | {"versions": {"pillow": "1.1.7"}})
    run(small(2, *plan, "run.steps=3", "batch.rows_per_step=4", "ratio.text=1", "resume=force"))
    said = capfd.readouterr().err
    assert "resume=force with other settings: batch.rows_per_step 2 -> 4; ratio.text 3 -> 1" in said
    assert "began with Pillow 1.1.7 and goes on with Pillow" in said
    assert json.loads((folder / "manifest.json").read_text())["forced"] == [
        ["batch.rows_per_step 2 -> 4", "ratio.text 3 -> 1"]
    ]
    state = json.loads((folder / "checkpoints/step-000003/state.json").read_text())["streams"]
    assert sorted(state) == ["0", "1", "2", "3"]
    waiting = [one for stream in state.values() for one in stream["pending"]["generation"]]
    assert waiting and all(4 * draw + 3 >= drawn for _, draw, *_ in waiting)
    run(small(2, *plan, "run.steps=4", "batch.rows_per_step=4", "ratio.text=1"))
    assert len(json.loads((folder / "manifest.json").read_text())["forced"]) == 1


@pytest.fixture
def flawed_recipe(tmp_path: Path) -> Path:
    """Texts 3 and 13 of 20 are empty, and image 9 of 40 is not an image."""
    folder = tmp_path / "flawed"
    folder.mkdir()
    texts = {f"t{i:02d}.json": {"text": "" if i % 10 == 3 else f"text number {i}"} for i in range(20)}
    make_shard(folder / "texts.tar", texts)  # type: ignore[arg-type]
    members: dict[str, object] = {}
    for i in range(40):
        data = b"\x89PNG\r\n\x1a\n no image" if i == 9 else encoded(plain_image((i, 0, 0)))
        members |= {f"p{i:02d}.json": {"caption": f"image {i}"}, f"p{i:02d}.png": data}
    make_shard(folder / "pictures.tar", members)  # type: ignore[arg-type]
    sources = [
        {"name": "read", "kind": "text", "type": "shards", "template": "text", "weight": 1, "paths": ["texts.tar"]},
        {"name": "look", "kind": "understanding", "type": "shards", "template": "image_caption", "weight": 1, "paths": ["pictures.tar"]},
        {"name": "draw", "kind": "generation", "type": "shards", "template": "text_to_image", "weight": 1, "paths": ["pictures.tar"]},
    ]  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps({"name": "flawed", "licence": "none", "sources": sources}))
    return folder / "recipe.yaml"


def test_unusable_samples_are_written_down_and_survive_a_resume(
    small: Small, flawed_recipe: Path, tmp_path: Path
) -> None:
    plan = (f"data.recipe={flawed_recipe}", "run.planned_steps=12", "run.checkpoint_every=3", "data.max_bad=0.2")
    whole = run(small(2, *plan, "run.steps=12", f"output_dir={tmp_path / 'whole'}"))
    folder = run(small(2, *plan, "run.steps=5"))
    shutil.rmtree(folder / "checkpoints/step-000005")  # as after a kill in step 5
    run(small(2, *plan, "run.steps=12"))
    assert (whole / "quarantine.jsonl").read_bytes() == (folder / "quarantine.jsonl").read_bytes()
    met = read_lines(whole / "quarantine.jsonl")
    assert {("draw", "p09"), ("read", "t03"), ("read", "t13")} <= {(one["source"], one["key"]) for one in met}
    assert {one["reason"] for one in met if one["source"] == "read"} == {"field 'text' is empty"}
    assert sum(line["quarantined"] for line in lines(folder)) == len(met)
    assert [line["batch_digest"] for line in lines(folder)] == [line["batch_digest"] for line in lines(whole)]


def test_too_many_unusable_samples_end_the_run_with_a_summary(
    small: Small, flawed_recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="too many samples cannot be used") as error:
        run(small(2, f"data.recipe={flawed_recipe}", "run.steps=40"))
    assert re.search(r"read \d+ of \d+ drawn \(\d+\.\d %.*data\.max_bad", str(error.value)) and "\n" not in str(
        error.value
    )
    assert (tmp_path / "run/quarantine.jsonl").is_file()


def test_a_stage_starts_from_the_stage_before(small: Small, tmp_path: Path) -> None:
    """Beside it, in stageN folders, or in the same output_dir, where the earlier stage then moves into a folder."""
    run(small(1, "run.steps=1", f"output_dir={tmp_path / 'a/stage1'}"))
    two = run(small(2, "run.steps=1", f"output_dir={tmp_path / 'a/stage2'}", "init_from=null"))
    assert "stage 1's result" in json.loads((two / "manifest.json").read_text())["start"]

    one = run(small(1, "run.steps=1", f"output_dir={tmp_path / 'b'}"))
    weights = load_file(one / "final/model.safetensors")
    two = run(small(2, "run.steps=1", f"output_dir={tmp_path / 'b'}", "init_from=null"))
    assert two == one and json.loads((two / "manifest.json").read_text())["stage"] == 2
    kept = load_file(two / "stage1/final/model.safetensors")
    assert all(torch.equal(weights[name], kept[name]) for name in weights)
    assert json.loads((two / "manifest.json").read_text())["start"] == f"stage 1's result {two / 'stage1/final'}"
    with pytest.raises(UserError, match="holds a finished stage 2: stage 1 needs another output_dir"):
        run(small(1, "run.steps=1", f"output_dir={tmp_path / 'b'}"))


def test_a_mistake_in_the_next_stage_moves_nothing(small: Small) -> None:
    folder = run(small(1, "run.steps=1"))
    stamp = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for mistake in ("batch.row_tokens=64", "model.vq.num_embeddings=256", "data.recipe=no.yaml"):
        with pytest.raises(UserError):
            run(small(2, "run.steps=1", mistake, "init_from=null"))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == stamp


def test_a_continuation_takes_the_frozen_parts_that_it_was_trained_beside(
    small: Small, random_base: Path, tmp_path: Path
) -> None:
    base, moved = tmp_path / "base", tmp_path / "moved"
    shutil.copytree(random_base, base)
    plan = (f"init_from={base}", "run.checkpoint_every=1", "run.planned_steps=3")
    folder = run(small(1, *plan, "run.steps=1"))
    weights = load_file(base / "model.safetensors")
    name = "model.vision_model.embeddings.patch_embedding.bias"
    save_file(weights | {name: weights[name] + 1}, base / "model.safetensors")
    stamp = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UserError, match=r"trained with another understanding_encoder than that of .*/base"):
        run(small(1, *plan, "run.steps=2"))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == stamp
    save_file(weights, base / "model.safetensors")
    base.rename(moved)
    with pytest.raises(UserError, match="there is no such folder"):
        run(small(1, *plan, "run.steps=2"))
    run(small(1, *plan, "run.steps=2", f"init_from={moved}"))
    run(small(1, *plan, "run.steps=3", f"init_from={moved}"))
    assert len(read_lines(folder / "metrics.jsonl")) == 3


def test_a_stage_before_that_is_finished_later_does_not_change_the_start(small: Small, tmp_path: Path) -> None:
    two = (f"output_dir={tmp_path / 'stage2'}", "init_from=null", "run.checkpoint_every=1", "run.planned_steps=2")
    folder = run(small(2, *two, "run.steps=1"))
    begun = json.loads((folder / "manifest.json").read_text())
    run(small(1, "run.steps=1", f"output_dir={tmp_path / 'stage1'}"))
    run(small(2, *two, "run.steps=2"))
    now = json.loads((folder / "manifest.json").read_text())
    assert [now[key] for key in ("start", "start_folder", "frozen")] == [
        begun[key] for key in ("start", "start_folder", "frozen")
    ]
    assert now["finished"] and "shipped base" in now["start"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init_from=no/such/folder"], "init_from=no/such/folder: there is no such folder"),
        (["init_from=tests"], "tests: there is no model"),
        (["data.recipe=no.yaml"], "there is no file"),
        (["data.recipe=null"], "no recipe is given"),
        (
            ["model.text.num_attention_heads=2", "model.text.num_key_value_heads=2"],
            "text_config.num_attention_heads is 4, the model's 2",
        ),
        (["model.vq.num_embeddings=256"], "vq_config.num_embeddings is 2048, the model's 256"),
        (["batch.row_tokens=64"], "do not fit a row of 64"),
        (["model=janus_pro_1b", "data=demo", "precision=fp32", "init_from=null"], "comes without a base"),
    ],
)
def test_mistakes_leave_nothing_behind(small: Small, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        run(small(2, *overrides))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_one_sample_longer_than_a_row_is_said_at_the_start_and_again_when_it_is_met(
    small: Small, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    members: dict[str, Any] = {}
    for number in range(30):
        caption = "word " * 300 if number == 17 else f"a dog {number}"
        members |= {f"s{number:02d}.json": {"caption": caption}, f"s{number:02d}.png": encoded(plain_image())}
    make_shard(tmp_path / "s.tar", members)
    source = {"name": "mine", "kind": "understanding", "type": "shards", "template": "image_caption", "weight": 1}
    (tmp_path / "r.yaml").write_text(
        json.dumps({"name": "r", "licence": "n", "sources": [source | {"paths": ["s.tar"]}]})
    )
    words = (f"data.recipe={tmp_path / 'r.yaml'}", "ratio.text=0", "ratio.generation=0", "run.steps=30")
    with pytest.raises(UserError, match=r"too many samples cannot be used: mine \d of \d+ drawn .*'s17'"):
        run(small(2, *words))
    said = capfd.readouterr().err.splitlines()
    at_start = [n for n, line in enumerate(said) if "are longer than a row of 256 tokens: 1 skipped" in line]
    met = [n for n, line in enumerate(said) if "sample 's17' cannot be used and is replaced" in line]
    start = next(n for n, line in enumerate(said) if "stage 2 starts from" in line)
    assert len(at_start) == len(met) == 1 and at_start[0] < start < met[0]
    assert all(said[n].startswith("warning: source 'mine'") for n in (*at_start, *met))
    folder = run(small(2, *words, "data.max_bad=0.2", f"output_dir={tmp_path / 'accepted'}"))
    assert len(lines(folder)) == 30 and {line["key"] for line in read_lines(folder / "quarantine.jsonl")} == {"s17"}


@pytest.mark.parametrize(
    ("rows", "world_size", "asked", "result"), [(2, 1, 3, 2), (6, 1, 4, 3), (2, 2, 2, 1), (12, 2, 2, 2), (7, 1, 6, 1)]
)
def test_micro_rows_are_lowered_to_what_divides_a_processs_rows(
    small: Small, rows: int, world_size: int, asked: int, result: int
) -> None:
    config = small(2, f"batch.rows_per_step={rows}", f"batch.micro_rows={asked}")
    fitted = fit_micro_rows(config, 0, world_size)
    assert fitted.batch.micro_rows == result
    assert (fitted is config) == (asked == result)


def test_a_base_that_is_not_complete_is_named(small: Small, random_base: Path, tmp_path: Path) -> None:

    broken = tmp_path / "broken"
    shutil.copytree(random_base, broken)
    weights = load_file(broken / "model.safetensors")
    name = "model.language_model.norm.weight"
    save_file({k: v for k, v in weights.items() if k != name}, broken / "model.safetensors")
    with pytest.raises(UserError, match=rf"1 tensors of language_model are missing, the first is {name}"):
        run(small(2, f"init_from={broken}"))
    save_file(weights | {name: torch.zeros(7)}, broken / "model.safetensors")
    with pytest.raises(UserError, match=rf"{name} is \(7,\), the model takes \(128,\)"):
        run(small(2, f"init_from={broken}"))
    save_file(weights | {"extra": torch.zeros(7)}, broken / "model.safetensors")
    with pytest.raises(UserError, match="it has extra"):
        run(small(2, f"init_from={broken}"))
    (broken / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot be read"):
        run(small(2, f"init_from={broken}"))
    assert not (tmp_path / "run").exists()


def test_steps_that_are_not_finite_are_not_applied_and_stop_the_run(
    small: Small, random_base: Path, tmp_path: Path
) -> None:

    broken = tmp_path / "nan"
    shutil.copytree(random_base, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.language_model.norm.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(UserError, match="3 steps in a row"):
        run(small(2, f"init_from={broken}", "run.steps=9", "run.checkpoint_every=5"))
    assert not (tmp_path / "run/final").exists() and not (tmp_path / "run/checkpoints").exists()
