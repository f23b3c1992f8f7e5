"""A run's ``final/`` and an export in the hands of transformers 4: the same tokens, logits, answers, codes and images.

transformers 4 is installed with its dependencies into a folder of pytest's cache, once, and stands there in front of this
environment's, whose PyTorch it takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from janus_train.infer.chat import answer_ids, open_turn
from janus_train.infer.decoding import inference
from janus_train.infer.generate import generate_codes
from janus_train.infer.image_inputs import image_features, prompt_embeds
from janus_train.infer.load import LoadedModel, load_model
from janus_train.interop.convert import export_model
from janus_train.train.run import run
from tests.helpers import config_of
from tests.interop.conftest import SIZE, distinct_model
from tests.train.conftest import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.registry]

VERSION = "4.57.6"
STEPS, IMAGE_TOKENS = 12, (SIZE // 8) ** 2
WORDS, PROMPT = "A red apple, 苹果, on the left.", "a dog on the right, on a blue background"


@pytest.fixture(scope="module")
def packages(request: pytest.FixtureRequest) -> Path:
    """A folder with transformers 4 and what it needs but PyTorch."""
    kept = Path(request.config.cache.mkdir(f"transformers-{VERSION}"))
    if not (kept / "complete").is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--retries", "1", "--no-warn-conflicts"]
        command += ["--upgrade", "--target", str(kept), f"transformers=={VERSION}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            pytest.skip(f"transformers {VERSION} did not come within five minutes")
        if done.returncode:
            pytest.skip(f"transformers {VERSION} cannot be had: {done.stderr.strip()[-200:]}")
        (kept / "complete").touch()
    return kept


@dataclass(frozen=True)
class Both:
    ours: LoadedModel
    image: Image.Image
    theirs: dict[str, np.ndarray]

    def messages(self) -> list[dict[str, str]]:
        return open_turn([{"role": "user", "content": "<image_placeholder>\nWhat is this?"}])


@pytest.fixture(scope="module", params=["run", "export"])
def both(
    request: pytest.FixtureRequest,
    packages: Path,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Both:
    work = tmp_path_factory.mktemp("transformers_4")
    distinct_model(tokenizer, rope_theta=500.0).save_pretrained(work / "start")
    tokenizer.save_pretrained(work / "start")
    folder = work / "export"
    if request.param == "run":
        config = config_of(
            "+stage=1", "model=from_folder", f"init_from={work / 'start'}", f"output_dir={work / 'run'}",
            "run.steps=1", "data=demo", "precision=fp32", *SMALL,
        )  # fmt: skip
        folder = run(config) / "final"
    else:
        export_model(str(work / "start"), folder, "hf")
    export_model(str(work / "start"), work / "official", "official")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    image.save(work / "image.png")  # of the encoder's size: it is not scaled
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}
    asked = {
        "model": str(folder),
        "official": str(work / "official"),
        "words": WORDS,
        "conversation": [question],
        "image": str(work / "image.png"),
        "prompt": PROMPT,
        "steps": STEPS,
        "image_tokens": IMAGE_TOKENS,
    }
    (work / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    worker = Path(__file__).with_name("transformers_4_worker.py")
    environment = os.environ | {"PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(worker), str(work / "asked.json"), str(work / "out.npz")],
        env=environment, cwd=work, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = dict(np.load(work / "out.npz"))
    assert str(theirs["version"]) == VERSION
    return Both(load_model(folder), image, theirs)


def test_every_tokenizer_puts_bos_before_a_text(both: Both) -> None:
    encoder = both.ours.encoder
    expected = [encoder.special.bos, *encoder.ids(WORDS)]
    names = [name for name in both.theirs if name.startswith("words/")]
    assert len(names) == 4
    assert {name: both.theirs[name].tolist() for name in names} == dict.fromkeys(names, expected)


def test_it_reads_and_answers_the_same(both: Both) -> None:
    janus, encoder = both.ours.janus, both.ours.encoder
    prompt = encoder.chat_prompt_ids(both.messages(), 1)
    assert both.theirs["ids"].tolist() == prompt
    with inference(janus):
        embeds = prompt_embeds(janus, torch.tensor([prompt]), [image_features(janus, encoder, [both.image])])
        logits = janus.lm_head(janus.model.language_model(inputs_embeds=embeds).last_hidden_state)[0].numpy()
    assert np.abs(logits - both.theirs["logits"]).max() < 1e-4 * np.abs(logits).max()
    theirs = both.theirs["answer"].tolist()
    eos = encoder.special.eos
    assert answer_ids(janus, encoder, [prompt], [both.image], STEPS)[0] == theirs[: [*theirs, eos].index(eos)]


def test_it_draws_the_same(both: Both) -> None:
    ours = both.ours
    ids = ours.encoder.generation_prompt_ids(PROMPT)
    assert both.theirs["prompt"].tolist() == ids
    how = {"guidance": ours.guidance, "temperature": 1.0, "seeds": [0], "greedy": True}
    codes = generate_codes(ours.janus, [ids], pad_id=ours.encoder.special.pad, **how)
    assert both.theirs["codes"].tolist() == codes[0].tolist() and len(set(codes[0].tolist())) > 4
    [image] = ours.generate([PROMPT], seeds=[0], temperature=0)
    assert np.abs(np.asarray(image, int) - both.theirs["image"]).max() <= 1, "one level: it may round"
    assert both.theirs["settings"].tolist() == pytest.approx([ours.guidance, ours.temperature])
