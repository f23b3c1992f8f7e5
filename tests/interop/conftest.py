"""Small official checkpoints with random weights, in the layouts that the hub has them in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from janus_train.interop import official, official_config, processor, write
from janus_train.model.build import build
from tests.model.model_configs import model_config

Tensors = dict[str, torch.Tensor]
SIZE, PATCH = 32, 8


def small_model(tokenizer: PreTrainedTokenizerFast, **text: object):
    """All seven parts, random; other shapes than any test of a converter would guess."""
    from janus_train.data.special_tokens import SpecialTokens

    config = model_config(
        "tiny",
        image_size=SIZE,
        text={
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 80,
            "vocab_size": 448,
            **text,
        },
        vision={"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": PATCH},
        vq={"num_embeddings": 53, "base_channels": 32, "channel_multiplier": [1, 1, 2, 2], "latent_channels": 16}
        | {"num_res_blocks": 1},
    )
    return build(config, **vars(SpecialTokens.of(tokenizer)))


def distinct_model(tokenizer: PreTrainedTokenizerFast, **text: object):
    """A `small_model` that tells prompts and images apart."""
    torch.manual_seed(0)
    janus = small_model(tokenizer, **text)
    with torch.no_grad():
        for name, parameter in janus.named_parameters():
            if parameter.ndim > 1 and name.startswith(("model.language_model.", "model.generation_head.", "lm_head.")):
                parameter.normal_(std=0.25)
        janus.model.generation_embeddings.weight.normal_()
    return janus


def official_tensors(tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype) -> tuple[Tensors, dict]:
    """Every tensor of an official checkpoint, extras too, each with values of its own; and its config.json."""
    torch.manual_seed(1)
    janus = small_model(tokenizer)
    tensors = dict(official.to_official(janus.state_dict().items()))
    for name, shape in write.extra_shapes(janus.config).items():
        tensors[name] = torch.randn(shape)
    name = str(dtype).removeprefix("torch.")
    return {n: t.to(dtype) for n, t in tensors.items()}, official_config.to_official(janus.config, name)


def split(tensors: Tensors, number: int) -> list[Tensors]:
    names = list(tensors)
    return [{name: tensors[name] for name in names[i::number]} for i in range(number)]


@pytest.fixture(scope="session")
def make_official(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast
) -> Callable[..., tuple[Path, Tensors]]:
    """A folder as on the hub: ``form`` bin, legacy (torch's old format) or safetensors; its tensors beside it."""

    def make(form: str = "bin", dtype: torch.dtype = torch.float32, shards: int = 1) -> tuple[Path, Tensors]:
        folder = tmp_path_factory.mktemp("official")
        tensors, config = official_tensors(tokenizer, dtype)
        (folder / "config.json").write_text(json.dumps(config))
        janus_config = official_config.from_official(config, {n: tuple(t.shape) for n, t in tensors.items()}, None)
        processor.save_official_processor(tokenizer, janus_config, folder)
        stem, end = ("model", "safetensors") if form == "safetensors" else ("pytorch_model", "bin")
        weight_map = {}
        for number, part in enumerate(split(tensors, shards), 1):
            name = f"{stem}.{end}" if shards == 1 else f"{stem}-{number:05d}-of-{shards:05d}.{end}"
            if form == "safetensors":
                save_file(part, folder / name, metadata={"format": "pt"})
            else:
                torch.save(part, folder / name, _use_new_zipfile_serialization=form == "bin")
            weight_map |= dict.fromkeys(part, name)
        if shards > 1:
            (folder / f"{stem}.{end}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return folder, tensors

    return make


def stored(folder: Path) -> Tensors:
    """Every tensor of the folder's safetensors, by transformers' own reading of the index; without the side file."""
    from safetensors.torch import load_file

    index = folder / "model.safetensors.index.json"
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else None
    return {k: v for name in names or ["model.safetensors"] for k, v in load_file(folder / name).items()}


def same(a: Tensors, b: Tensors) -> bool:
    """Bytes, types and shapes."""
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype
        and a[n].shape == b[n].shape
        and torch.equal(a[n].contiguous().view(torch.uint8), b[n].contiguous().view(torch.uint8))
        for n in a
    )
