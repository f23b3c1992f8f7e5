"""LoRA: what trains, what keeps its bytes, what is written, how a run resumes, and what is refused."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import JanusForConditionalGeneration

from janus_train.config import Config, Part, PeftConfig
from janus_train.errors import UserError
from janus_train.interop.model_folder import open_folder
from janus_train.model import lora
from janus_train.model.janus import PackedJanus
from janus_train.model.parts import is_lora, part_of, set_trainable
from janus_train.planning.parameters import adapter_counts
from janus_train.train.checkpoint import store
from janus_train.train.run import run
from janus_train.train.validation import Validation
from tests.model.reference import to_batch
from tests.planning.test_flops import SIZE, TOKENS, some_documents
from tests.train.validating import held_out_recipe

Small = Callable[..., Config]
LORA = ("+peft=lora", "peft.rank=4", "peft.alpha=8", "optim.learning_rate=1e-2")
BOTH = ("peft.parts=[language_model,understanding_encoder]", "train_parts=[image_head]")


@pytest.fixture(scope="module")
def base(random_base: Path) -> JanusForConditionalGeneration:
    return JanusForConditionalGeneration.from_pretrained(random_base)


def test_a_run_trains_adapters_and_named_parts_alone(small: Small, random_base: Path, base, tmp_path: Path) -> None:
    """In bf16, where frozen weights are narrow meanwhile: final/ has them as the start does, to the bit."""
    from peft import PeftModel

    config = small(3, *LORA, *BOTH, "precision=bf16", "run.steps=2", "run.checkpoint_every=1", "run.sample_every=2")
    folder = run(config)
    before, after = load_file(random_base / "model.safetensors"), load_file(folder / "final/model.safetensors")
    assert before.keys() == after.keys()
    adapted = {
        name
        for part in ("language_model", "understanding_encoder")
        for name in (f"{layer}.weight" for layer in lora.target_layers(base, part))
    }
    assert "lm_head.weight" not in adapted and len(adapted) > 20
    for name, tensor in before.items():
        trains = name in adapted or part_of(name) == "image_head"
        assert torch.equal(tensor, after[name]) != trains and tensor.dtype == after[name].dtype, name
    found = store.newest_checkpoint(folder)
    assert found is not None
    stored = {key.split("/")[1] for key in load_file(found.folder / "rank-00000.safetensors")}
    assert all(is_lora(name) or part_of(name) == "image_head" for name in stored)
    assert sum(is_lora(name) for name in stored) == 2 * len(adapted)
    parts = json.loads((folder / "manifest.json").read_text())["parts"]
    assert {part for part, row in parts.items() if row["trains"]} == {"image_head"}
    counts = adapter_counts(config.model, config.peft)
    assert {part: row["adapter"] for part, row in parts.items() if "adapter" in row} == counts
    assert parts["language_model"]["parameters"] == sum(
        p.numel() for n, p in base.named_parameters() if part_of(n) == "language_model"
    )
    assert (folder / "samples/step-000002.png").is_file()
    # the adapter alone, beside the base: final/ but for the part that trained in full
    model = PeftModel.from_pretrained(copy.deepcopy(base), folder / "adapter")
    plain = model.merge_and_unload().state_dict()
    assert plain.keys() == after.keys()
    for name, tensor in plain.items():
        if part_of(name) != "image_head":
            assert torch.allclose(tensor, after[name], atol=1e-6), name
    assert "image_head trained in full" in (folder / "adapter/README.md").read_text()
    with pytest.raises(
        UserError, match=r"trained image_head in full, .* another model; the merged model is .*/run/final"
    ):
        dict(open_folder(folder / "adapter").tensors())


def test_some_layers_of_a_part_get_adapters_and_no_others(small: Small, random_base: Path, base) -> None:
    from peft import PeftModel

    parts = ("peft.parts=[language_model.layers.2-3,understanding_encoder.layers.1-]", "train_parts=[]")
    config = small(3, *LORA, *parts, "run.steps=2")
    folder = run(config)
    before, after = load_file(random_base / "model.safetensors"), load_file(folder / "final/model.safetensors")
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    layers = ("model.language_model.layers.2.", "model.language_model.layers.3.", "model.vision_model.encoder.layers.")
    assert changed and all(name.startswith(layers) for name in changed)
    assert not any(name.startswith("model.vision_model.encoder.layers.0.") for name in changed)
    manifest = json.loads((folder / "manifest.json").read_text())["parts"]
    counts = adapter_counts(config.model, config.peft)
    assert {part: row["adapter"] for part, row in manifest.items() if "adapter" in row} == counts
    merged = PeftModel.from_pretrained(copy.deepcopy(base), folder / "adapter").merge_and_unload().state_dict()
    assert all(torch.allclose(tensor, after[name], atol=1e-6) for name, tensor in merged.items())


def test_a_resumed_run_is_the_uninterrupted_one_and_another_rank_is_refused(small: Small, tmp_path: Path) -> None:
    plan = (*LORA, "run.planned_steps=3", "run.checkpoint_every=1")
    whole = run(small(3, *plan, "run.steps=3", f"output_dir={tmp_path / 'whole'}"))
    folder = run(small(3, *plan, "run.steps=2"))
    with pytest.raises(UserError, match=r"peft\.rank 4 -> 2") as error:
        run(small(3, *plan, "run.steps=3", "peft.rank=2"))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="trained tensors differ"):
        run(small(3, *plan, "run.steps=3", "peft.rank=2", "resume=force"))
    run(small(3, *plan, "run.steps=3"))
    for file in ("final/model.safetensors", "adapter/adapter_model.safetensors"):
        one, other = load_file(whole / file), load_file(folder / file)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    adapted, final = dict(open_folder(folder / "adapter").tensors()), load_file(folder / "final/model.safetensors")
    assert adapted.keys() == final.keys() and all(torch.equal(adapted[name], final[name]) for name in final)


def random_adapters(base: JanusForConditionalGeneration, options: PeftConfig) -> JanusForConditionalGeneration:
    torch.manual_seed(1)
    janus = copy.deepcopy(base)
    lora.add_lora(janus, options)
    set_trainable(janus, ())
    with torch.no_grad():
        for name, parameter in janus.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
            elif lora.magnitudes_base(name):
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    return janus


@pytest.mark.parametrize(("use_rslora", "use_dora"), [(False, False), (True, False), (False, True)])
def test_the_merged_model_gives_the_same_losses(
    base: JanusForConditionalGeneration, use_rslora: bool, use_dora: bool
) -> None:
    """Of every part that takes adapters; and they do make a difference. As peft merges, too."""
    parts: tuple[Part, ...] = ("language_model", "understanding_encoder", "understanding_adaptor", "generation_adaptor", "image_head")  # fmt: skip
    options = PeftConfig(rank=3, alpha=6.0, dropout=0.0, use_rslora=use_rslora, use_dora=use_dora, parts=parts)
    janus = random_adapters(base, options)
    plain = copy.deepcopy(base)
    plain.load_state_dict(lora.merge_lora(janus.state_dict(), options))
    batch = to_batch(some_documents(), TOKENS, SIZE)
    with torch.no_grad():
        before, unmerged, after = (
            torch.stack([s.text, s.understanding, s.generation])
            for s in (PackedJanus(copy.deepcopy(model))(batch) for model in (base, janus, plain))
        )
    assert torch.allclose(unmerged, after, rtol=1e-5)
    assert not torch.allclose(before, after, rtol=1e-3)
    trained = {name for name, parameter in janus.named_parameters() if parameter.requires_grad}
    assert trained and all(is_lora(name) for name in trained)


def test_drop_out_is_repeated_when_a_layer_is_computed_again(base: JanusForConditionalGeneration) -> None:
    from janus_train.model.activation_checkpointing import checkpoint_layers

    options = PeftConfig(rank=2, alpha=4.0, dropout=0.5, use_rslora=False, use_dora=False, parts=("language_model",))
    janus, batch, found = random_adapters(base, options), to_batch(some_documents(), TOKENS, SIZE), []
    for policy in ("none", "full"):
        model = copy.deepcopy(janus)
        checkpoint_layers(model, policy)
        torch.manual_seed(2)
        PackedJanus(model)(batch).total.backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and found[0]
    assert all(torch.allclose(found[0][name], found[1][name], rtol=1e-4, atol=1e-5) for name in found[0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["peft.rank=0"], "peft.rank: Input should be greater than 0"),
        (["peft.parts=[head]"], "there is no part head"),
        (["peft.parts=[language_model.lm_head]"], "language_model.lm_head takes no adapters"),
        (["peft.parts=[language_model.layers.2-9]"], "is beyond the 4 layers"),
        (
            ["peft.parts=[language_model.layers.2-3]", "train_parts=[language_model.layers.3]"],
            "both name language_model.layers.3",
        ),
        (["peft.parts=[]"], "peft.parts"),
        (["peft.parts=[generation_encoder]"], "generation_encoder takes no adapters"),
        (["train_parts=[image_head,language_model]"], "both name language_model: a part trains by LoRA or in full"),
    ],
)
def test_wrong_options_get_one_line(small: Small, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        small(3, *LORA[:1], *overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_dora_starts_as_the_base_and_its_magnitudes_train(small: Small, random_base: Path, base) -> None:
    """Without an update the merged model is the base; with some, magnitudes have left the norms where they began."""
    still = run(small(3, *LORA, "peft.use_dora=true", "run.steps=1", "optim.learning_rate=1e-30"))
    before, after = load_file(random_base / "model.safetensors"), load_file(still / "final/model.safetensors")
    assert all(torch.allclose(before[name], after[name], rtol=1e-5, atol=1e-7) for name in before)
    adapters = load_file(still / "adapter/adapter_model.safetensors")
    names = [name for name in adapters if name.endswith(lora.MAGNITUDE)]
    assert len(names) == len(lora.target_layers(base, "language_model"))
    for name in names:
        weight = before[name.removeprefix("base_model.model.").replace(lora.MAGNITUDE, "weight")]
        assert torch.allclose(adapters[name], weight.norm(dim=1), rtol=1e-5)
    moved = run(small(3, *LORA, "peft.use_dora=true", "run.steps=2", f"output_dir={still.with_name('moved')}"))
    trained = load_file(moved / "adapter/adapter_model.safetensors")
    assert all((trained[name] - adapters[name]).abs().max() > 1e-3 for name in names)


def test_the_best_models_adapters_are_beside_it(small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They and the base are best/; here the first validation is made the best."""
    values, measure = iter((1.0, 2.0)), Validation.run
    monkeypatch.setattr(Validation, "run", lambda self, backend: measure(self, backend) | {"validation/loss": next(values)})  # fmt: skip
    plan = ("run.steps=2", "run.validate_every=1", "run.validation_samples=2", "run.keep_best=validation/loss")
    folder = run(small(2, *LORA, *plan, f"data.recipe={held_out_recipe(tmp_path)}"))
    record = json.loads((folder / "best/training.json").read_text())
    assert json.loads((folder / "adapter-best/training.json").read_text()) == record and record["step"] == 1
    best = load_file(folder / "best/model.safetensors")
    assert all(torch.equal(best[name], tensor) for name, tensor in open_folder(folder / "adapter-best").tensors())
    assert "the model in ../best/" in (folder / "adapter-best/README.md").read_text()
    assert json.loads((folder / "adapter/training.json").read_text())["step"] == 2


def test_without_the_library_nothing_begins(small: Small, monkeypatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(lora, "find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(UserError, match="pip install peft"):
        run(small(3, *LORA))
    assert not (tmp_path / "run").exists()
