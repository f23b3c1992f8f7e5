"""A small model in both layouts, and the script of tests/official/janus_script.py with its import lines changed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from janus_train.data.encode import Encoder
from janus_train.interop.convert import export_model
from janus_train.interop.processor import SYSTEM_PROMPT
from janus_train.interop.write import save_model
from janus_train.paths import ROOT
from tests.interop.conftest import PATCH, SIZE, small_model

LOOK = "<image_placeholder>"
SCRIPT = Path(__file__).with_name("janus_script.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def folders(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``final``: written as a run writes it; ``official``: its export. In both the system prompt is the official one."""
    root = tmp_path_factory.mktemp("official interface")
    torch.manual_seed(6)
    janus = small_model(tokenizer)
    with torch.no_grad():  # or every logit is about 0 and all answers are alike
        for parameter in janus.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
        janus.get_input_embeddings().weight.normal_()
        janus.model.generation_embeddings.weight.normal_()
    encoder = Encoder(tokenizer, (SIZE // PATCH) ** 2, SIZE, SYSTEM_PROMPT)
    save_model(janus, encoder, root / "run/final", janus.state_dict(), {})
    export_model(str(root / "run"), root / "official", "official")
    return {"final": root / "run/final", "official": root / "official"}


@pytest.fixture(params=["final", "official"])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


@pytest.fixture(scope="session")
def ported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script with nothing but its import lines changed."""
    theirs = SCRIPT.read_text(encoding="utf-8")
    ours, count = re.subn(r"^from janus\.", "from janus_train.official.", theirs, flags=re.MULTILINE)
    assert count == 2
    path = tmp_path_factory.mktemp("script") / "ported.py"
    path.write_text(ours, encoding="utf-8")
    return path


def noise(seed: int, width: int = 50, height: int = 33) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def ask(folder: Path, **changes: Any) -> Path:
    """Writes what the script asks, with its images, to ``folder``."""
    paths = [str(folder / f"{seed}.png") for seed in range(2)]
    for seed, path in enumerate(paths):
        noise(seed, 50 + 70 * seed).save(path)
    asked = {"dtype": "float32", "attention": "sdpa", "new_tokens": 8, "prompt": "a red apple", "number": 16}
    conversations = [
        [
            {"role": "<|User|>", "content": f"{LOOK}\nWhat colour is the background?", "images": paths[:1]},
            {"role": "<|Assistant|>", "content": ""},
        ],
        [
            {"role": "User", "content": f"{LOOK} is Figure 1.\n{LOOK} is Figure 2.\n哪一张更亮？ ", "images": paths},
            {"role": "Assistant", "content": "Blue. 苹果"},
            {"role": "User", "content": "And now?"},
            {"role": "Assistant", "content": ""},
        ],
        [{"role": "<|User|>", "content": " Hello  there"}, {"role": "<|Assistant|>", "content": ""}],
    ]
    (folder / "asked.json").write_text(json.dumps(asked | {"conversations": conversations} | changes), encoding="utf-8")
    return folder / "asked.json"


def run_script(script: Path, model: Path, asked: Path, python: str = sys.executable) -> dict[str, np.ndarray]:
    """What the script found."""
    out = asked.with_name(f"{script.stem}.npz")
    command = [python, str(script), str(model), str(asked), str(out)]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=asked.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(out))
