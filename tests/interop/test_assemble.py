"""A stage-1 start from base parts: what each part brings is kept, what is new starts as documented, and it trains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.janus import JanusVQVAE
from transformers.models.janus.configuration_janus import JanusVQVAEConfig

from janus_train.data.special_tokens import BOS, EOS, PAD, SPECIAL_TOKENS
from janus_train.errors import UserError
from janus_train.interop.assemble import assemble
from janus_train.interop.base_encoders import load_vq
from janus_train.interop.model_folder import open_folder
from janus_train.interop.official import to_official
from tests.conftest import TEXTS
from tests.helpers import LFS_POINTER, config_of
from tests.interop.conftest import same, stored
from tests.train.conftest import SMALL

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
FAMILIES = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=False, attention_bias=True),
    "llama, tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen2, tied": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen2, windows off": Qwen2Config(**SHAPE, sliding_window=64, use_sliding_window=False),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=False),
    "mistral, windows": MistralConfig(**SHAPE, sliding_window=256),
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """llm-NAME/, siglip/ (the tower alone), siglip-odd/ (both towers; patches that leave pixels over), vq.pt"""
    root = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own = ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=310, special_tokens=own, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    for name, config in FAMILIES.items():
        config.bos_token_id, config.eos_token_id = 0, 1
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=parameter.shape[1] ** -0.5)
        model.save_pretrained(root / f"llm-{name}")
        tokenizer.save_pretrained(root / f"llm-{name}")
    vision = {"hidden_size": 24, "intermediate_size": 60, "num_hidden_layers": 2, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**vision, image_size=32, patch_size=8)).save_pretrained(root / "siglip")
    both = SiglipConfig(
        vision_config={**vision, "image_size": 31, "patch_size": 6},
        text_config={"hidden_size": 24, "intermediate_size": 30, "num_hidden_layers": 1, "vocab_size": 50}
        | {"num_attention_heads": 2},
    )
    SiglipModel(both).save_pretrained(root / "siglip-odd")
    vq = JanusVQVAE(
        JanusVQVAEConfig(
            num_embeddings=40, embed_dim=8, base_channels=32, channel_multiplier=[1, 2, 1, 1], num_res_blocks=1,
            latent_channels=16, num_patches=4,
        )
    )  # fmt: skip
    renamed = to_official((f"model.vqmodel.{name}", t) for name, t in vq.state_dict().items())
    state = {name.removeprefix("gen_vision_model."): t for name, t in renamed}
    torch.save({"model": state | {"quantize.codebook_used": torch.arange(40.0)}}, root / "vq.pt")
    return root


@pytest.fixture(scope="module", params=FAMILIES)
def assembled(request, parts, tmp_path_factory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("assembled") / "model"
    assemble(str(parts / f"llm-{request.param}"), str(parts / "siglip"), parts / "vq.pt", out, seed=0)
    return request.param, out


def test_the_language_model_is_kept_and_its_head_untied(parts, assembled) -> None:
    name, out = assembled
    model = AutoModelForCausalLM.from_pretrained(parts / f"llm-{name}")
    held = stored(out)
    for key, tensor in model.base_model.state_dict().items():
        ours = held[f"model.language_model.{key}"]
        assert torch.equal(
            ours[: len(tensor)] if key == "embed_tokens.weight" else ours, _without_new(key, tensor, ours)
        )
    head = held["lm_head.weight"]
    assert torch.equal(head[:310], model.get_output_embeddings().weight[:310])
    config = json.loads((out / "config.json").read_text())
    assert config["tie_word_embeddings"] is config["text_config"]["tie_word_embeddings"] is False
    assert config["text_config"]["vocab_size"] == len(head) == 320


def _without_new(key: str, tensor: torch.Tensor, ours: torch.Tensor) -> torch.Tensor:
    """Of the embeddings only the rows of the old 310 tokens have to be kept: new tokens take spare rows."""
    return torch.cat([tensor[:310], ours[310 : len(tensor)]]) if key == "embed_tokens.weight" else tensor


def test_packed_rows_are_what_each_document_gives_alone(assembled) -> None:
    """The model that training builds, against transformers' own attention on one document at a time."""
    from janus_train.model.attention import Documents
    from janus_train.model.meta_init import fill
    from janus_train.train.initial_weights import find_start, load_start
    from janus_train.train.run_dir import RunDir

    _, out = assembled
    config = config_of("+stage=1", "model=from_folder", f"init_from={out}", "data=demo", "batch.row_tokens=128")
    janus, weights, _, new = load_start(config, find_start(config, RunDir(config, {}), "new"))
    assert not new
    fill(janus, weights, torch.device("cpu"))
    janus.eval()
    lengths = [9, 4, 17]
    embeds = torch.randn(1, sum(lengths), 32)
    text = janus.model.language_model
    packed = text(
        inputs_embeds=embeds,
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
        attention_mask=torch.zeros(1, 1, 1, 1, dtype=torch.bool),
        use_cache=False,
        documents=Documents(torch.tensor([0, 9, 13, 30], dtype=torch.int32), 17),
    ).last_hidden_state
    janus.set_attn_implementation("eager")
    alone = [text(inputs_embeds=part, use_cache=False).last_hidden_state for part in embeds.split(lengths, dim=1)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-4, atol=1e-4)


def test_it_loads_with_transformers_alone_and_trains(assembled, tmp_path) -> None:
    from transformers import JanusForConditionalGeneration, JanusProcessor

    from janus_train.train.run import run

    _, out = assembled
    _, info = JanusForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert JanusProcessor.from_pretrained(out).num_image_tokens == 16
    folder = run(
        config_of(
            "+stage=1", "model=from_folder", f"init_from={out}", f"output_dir={tmp_path / 'run'}", "data=demo",
            "precision=fp32", "run.steps=1", *SMALL,
        )
    )  # fmt: skip
    assert not any(
        JanusForConditionalGeneration.from_pretrained(folder / "final", output_loading_info=True)[1].values()
    )
    final = stored(folder / "final")
    kept_names = [n for n in final if n.startswith(("model.language_model.", "model.vision_model.", "model.vqmodel."))]
    assert kept_names and all(torch.equal(final[n], tensor) for n, tensor in stored(out).items() if n in kept_names)
    trained = ("model.aligner.", "model.generation_aligner.", "model.generation_head.")
    assert not any(torch.equal(final[n], tensor) for n, tensor in stored(out).items() if n.startswith(trained))


def test_new_tokens_start_as_documented(parts, tmp_path) -> None:
    made = assemble(str(parts / "llm-llama"), str(parts / "siglip"), parts / "vq.pt", tmp_path / "m", seed=3)
    assert made.new_tokens == list(SPECIAL_TOKENS)
    tokenizer = open_folder(tmp_path / "m").tokenizer
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    assert sorted(ids.values()) == list(range(310, 318)) and tokenizer.bos_token == BOS
    assert tokenizer("a red")["input_ids"][0] == ids[BOS]
    old = AutoModelForCausalLM.from_pretrained(parts / "llm-llama").get_input_embeddings().weight
    table = stored(tmp_path / "m")["model.language_model.embed_tokens.weight"]
    assert torch.equal(table[ids[BOS]], old[0]) and torch.equal(table[ids[EOS]], old[1])
    mean, spread = old[:310].mean(0), old[:310].std(0)
    others = table[[i for token, i in ids.items() if token not in (BOS, EOS)]]
    off = (others - mean) / spread
    assert 0.05 < off.std() < 0.15 and off.abs().max() < 0.6
    assert len(others.unique(dim=0)) == 6
    assert torch.equal(table[318], old[318])  # spare rows behind the tokenizer are left
    again = tmp_path / "again"
    assemble(str(parts / "llm-llama"), str(parts / "siglip"), parts / "vq.pt", again, seed=3)
    assert all(torch.equal(t, stored(again)[n]) for n, t in stored(tmp_path / "m").items())


def test_tables_grow_where_they_have_no_room(parts, tmp_path) -> None:
    full = parts / "llm-full"
    config = LlamaConfig(**SHAPE | {"vocab_size": 310}, bos_token_id=0, eos_token_id=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(full)
    tokenizer = open_folder_tokenizer(parts / "llm-llama")
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken(PAD, special=True)])  # one of Janus's is there
    tokenizer.save_pretrained(full)
    made = assemble(str(full), str(parts / "siglip"), parts / "vq.pt", tmp_path / "m", seed=0)
    assert made.config.text_config.vocab_size == 320 and PAD not in made.new_tokens
    assert stored(tmp_path / "m")["lm_head.weight"].shape == (320, 32)
    assert made.config.text_config.pad_token_id == 310


def open_folder_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


def test_the_encoders_are_kept(parts, tmp_path) -> None:
    """Same features and same codes as from the parts themselves; the attention pool stays for an export."""
    from janus_train.interop.vq_encoder import load_code_encoder
    from janus_train.model.vq import encode_images

    assemble(str(parts / "llm-llama, tied"), str(parts / "siglip"), parts / "vq.pt", tmp_path / "m", seed=0)
    from transformers import JanusForConditionalGeneration

    janus = JanusForConditionalGeneration.from_pretrained(tmp_path / "m", attn_implementation="eager").eval()
    tower = SiglipVisionModel.from_pretrained(parts / "siglip", attn_implementation="eager").eval()
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        theirs, ours = tower(pixels), janus.model.vision_model(pixels)
    torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state, rtol=1e-5, atol=1e-5)
    extras = open_folder(tmp_path / "m").extras()
    head = dict(tower.named_parameters())
    pool = "vision_model.vision_tower.attn_pool."
    prefix = next(n for n in head if n.endswith("head.probe")).removesuffix("probe")
    assert torch.equal(extras[f"{pool}latent"], head[f"{prefix}probe"])
    stacked = torch.cat([extras[f"{pool}q.weight"], extras[f"{pool}kv.weight"]])
    assert torch.equal(stacked, head[f"{prefix}attention.in_proj_weight"])
    assert torch.equal(extras["gen_vision_model.quantize.codebook_used"], torch.arange(40.0))
    from janus_train.interop.write import extra_shapes

    assert extras.keys() == extra_shapes(janus.config).keys()
    codes = encode_images(load_code_encoder(tmp_path / "m", torch.device("cpu")).vqmodel, pixels)
    assert codes.shape == (2, 16)
    table = stored(tmp_path / "m")["model.generation_embeddings.weight"]
    codebook = torch.load(parts / "vq.pt", weights_only=True)["model"]["quantize.embedding.weight"]
    assert torch.equal(table, F.normalize(codebook, dim=-1))


def test_patches_that_are_not_the_vq_tokenizers_stride(parts, tmp_path) -> None:
    """31 pixels by patches of 6 are 5 x 5, one pixel left over: images to draw have 5 x 8 = 40 pixels a side."""
    from janus_train.infer.generate import generate_images
    from janus_train.infer.load import load_model
    from janus_train.train.run import run

    out = tmp_path / "m"
    made = assemble(str(parts / "llm-qwen2, tied"), str(parts / "siglip-odd"), parts / "vq.pt", out, seed=0)
    assert made.config.vision_config.num_image_tokens == 25 and made.generation_image_size == 40
    assert int(24 * made.config.vision_config.mlp_ratio) == 60
    config = config_of(
        "+stage=1", "model=from_folder", f"init_from={out}", f"output_dir={tmp_path / 'run'}", "data=demo",
        "precision=fp32", "run.steps=1", *SMALL,
    )  # fmt: skip
    assert (config.model.image_size, config.model.generation_image_size, config.model.tokens_per_image) == (31, 40, 25)
    loaded = load_model(run(config) / "final")
    ids = [loaded.encoder.generation_prompt_ids("a dog")]
    pad = loaded.encoder.special.pad
    (image,) = generate_images(loaded.janus, ids, pad_id=pad, guidance=2.0, temperature=1.0, seeds=[0])
    assert image.size == (40, 40)


def test_parts_that_were_saved_wrapped_are_the_plain_ones(parts, tmp_path) -> None:
    for folder in ("llm-llama", "siglip"):
        shutil.copytree(parts / folder, tmp_path / folder)
        weights = tmp_path / folder / "model.safetensors"
        save_file({f"module._orig_mod.{n}": t for n, t in load_file(weights).items()}, weights, {"format": "pt"})
    state = torch.load(parts / "vq.pt", weights_only=True)["model"]
    torch.save({"model": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}}, tmp_path / "vq.pt")
    for folder, out in ((parts, "plain"), (tmp_path, "wrapped")):
        assemble(str(folder / "llm-llama"), str(folder / "siglip"), folder / "vq.pt", tmp_path / out, seed=0)
    assert same(stored(tmp_path / "wrapped"), stored(tmp_path / "plain"))


def test_a_language_model_that_is_a_git_lfs_pointer_is_named(parts, tmp_path) -> None:
    shutil.copytree(parts / "llm-llama", tmp_path / "llm")
    (tmp_path / "llm/model.safetensors").write_bytes(LFS_POINTER)
    with pytest.raises(UserError, match=r"llm/model\.safetensors is a git-lfs pointer"):
        assemble(str(tmp_path / "llm"), str(parts / "siglip"), parts / "vq.pt", tmp_path / "out", seed=0)


def test_averaged_weights_of_the_vq_tokenizer_come_first(parts, tmp_path) -> None:
    """A training checkpoint of LlamaGen has both; and a file of tensors alone is one too."""
    state = torch.load(parts / "vq.pt", weights_only=True)["model"]
    averaged = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"model": state, "ema": averaged, "optimizer": {"lr": 1e-4}, "steps": 7}, tmp_path / "both.pt")
    save_file(averaged, tmp_path / "plain.safetensors")
    name = "model.vqmodel.quantize.embedding.weight"
    for file in ("both.pt", "plain.safetensors"):
        piece = load_vq(tmp_path / file)
        assert torch.equal(piece.tensors[name], averaged["quantize.embedding.weight"])
        assert piece.config["channel_multiplier"] == [1, 2, 1, 1] and piece.config["num_res_blocks"] == 1


def test_a_model_whose_attention_cannot_be_packed_is_refused(parts, tmp_path) -> None:
    """Gemma 2 caps its logits inside attention: packed rows would give other states in silence."""
    config = Gemma2Config(**SHAPE, head_dim=8, bos_token_id=0, eos_token_id=1, query_pre_attn_scalar=8)
    config.attn_logit_softcapping = 0.005
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "llm")
    open_folder_tokenizer(parts / "llm-llama").save_pretrained(tmp_path / "llm")
    with pytest.raises(UserError, match="gemma2 gives other states for packed documents"):
        assemble(str(tmp_path / "llm"), str(parts / "siglip"), parts / "vq.pt", tmp_path / "out", seed=0)
    assert not (tmp_path / "out").exists()


def test_parts_that_are_not_what_they_should_be(parts, tmp_path) -> None:
    llm, siglip, vq, out = str(parts / "llm-llama"), str(parts / "siglip"), parts / "vq.pt", tmp_path / "out"
    torch.save({"model": {"encoder.conv_in.weight": torch.zeros(32, 3, 3, 3)}}, tmp_path / "half.pt")
    torch.save({"model": {"x": 3}}, tmp_path / "no_tensors.pt")
    torch.save({"model": {}, "args": Path("x")}, tmp_path / "code.pt")
    for given, message in (
        ((llm, siglip, tmp_path / "none.pt"), "there is no such file"),
        ((llm, siglip, tmp_path / "half.pt"), "is not a VQ tokenizer in LlamaGen's layout"),
        ((llm, siglip, tmp_path / "no_tensors.pt"), "does not contain the tensors of a VQ tokenizer"),
        ((llm, siglip, tmp_path / "code.pt"), "loading it could run code, so it is refused"),
        ((llm, llm, vq), "model_type 'llama' is not a SigLIP in transformers' layout"),
        ((siglip, siglip, vq), "cannot be loaded as a causal language model"),
        ((str(tmp_path / "nowhere"), siglip, vq), "--llm .*nowhere: there is no such folder"),
    ):
        with pytest.raises(UserError, match=message) as error:
            assemble(*given, out, seed=0)
        assert "\n" not in str(error.value) and not out.exists()


def test_a_named_model_wants_its_own_shape(parts, tmp_path, assembled) -> None:
    from janus_train.train.initial_weights import find_start, load_start
    from janus_train.train.run_dir import RunDir

    _, out = assembled
    config = config_of("+stage=1", f"init_from={out}")
    with pytest.raises(
        UserError, match=r"does not fit model tiny: .*; use model=from_folder for the shape that the folder"
    ):
        load_start(config, find_start(config, RunDir(config, {}), "new"))
    with pytest.raises(UserError, match=r"model=from_folder takes the model's shape from init_from: add init_from="):
        config_of("+stage=1", "model=from_folder")
