"""The VQ encoder alone: loaded from a folder, known by a digest that training computes too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from janus_train.errors import UserError
from janus_train.interop.vq_encoder import load_code_encoder
from janus_train.model.vq import codes_digest, encoder_digest
from janus_train.paths import ROOT
from janus_train.train.initial_weights import find_start, load_start
from janus_train.train.run import run as train
from janus_train.train.run_dir import RunDir
from tests.helpers import config_of
from tests.train.conftest import SMALL


def test_the_digest_is_of_what_makes_codes(random_base: Path) -> None:
    vqmodel = load_code_encoder(random_base, torch.device("cpu")).vqmodel
    before = encoder_digest(vqmodel)
    with torch.no_grad():
        vqmodel.decoder.conv_in.weight += 1
        assert encoder_digest(vqmodel) == before
        vqmodel.quantize.embedding.weight[3, 1] += 1e-3
        changed = encoder_digest(vqmodel)
        assert changed != before
        vqmodel.encoder.conv_in.bias[0] += 1e-3
    assert encoder_digest(vqmodel) not in (before, changed)


def test_a_codebook_too_large_for_the_cache_is_refused(random_base: Path, tmp_path: Path) -> None:
    shutil.copytree(random_base, tmp_path / "base")
    values = json.loads((tmp_path / "base/config.json").read_text())
    values["vq_config"]["num_embeddings"] = 65537
    (tmp_path / "base/config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="65537 codes does not fit the cache's 65536"):
        load_code_encoder(tmp_path / "base", torch.device("cpu"))
    values["vq_config"]["num_embeddings"] = 65536
    (tmp_path / "base/config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"does not fit its config\.json"):
        load_code_encoder(tmp_path / "base", torch.device("cpu"))


def test_training_and_the_command_know_the_encoder_by_the_same_digest(random_base: Path, tmp_path: Path) -> None:
    """Of an fp32 and of a bf16 folder, and of what a stage leaves for the next one."""
    for base in (random_base, ROOT / "data_recipes/demo/base"):
        config = config_of("+stage=1", f"init_from={base}", f"output_dir={tmp_path / base.name}", "run.steps=1", *SMALL)
        _, weights, _, _ = load_start(config, find_start(config, RunDir(config, {}), "new"))
        alone = load_code_encoder(base, torch.device("cpu"))
        assert codes_digest(weights, prefix="model.vqmodel.") == alone.origin.encoder
        assert (alone.image_size, alone.tokens_per_image) == (96, 36)
        run_folder = train(config)
        assert load_code_encoder(run_folder, torch.device("cpu")).origin == alone.origin
