"""An export in the official layout in the hands of the official code itself, and what that code saves in ours.

It runs where ``JANUS_OFFICIAL_PYTHON`` names an interpreter that can ``import janus.models`` (docs/checkpoints.md:
Compared with the official code); nothing of the official code is in this repository. The encoders are the real ones, as the
official code builds no others, with random weights: some GB in memory and on disk, some minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from janus_train.data.images import to_float, understanding_pixels
from janus_train.data.special_tokens import ASSISTANT, USER, SpecialTokens
from janus_train.infer.chat import answer_ids
from janus_train.infer.decoding import inference
from janus_train.infer.generate import apply_guidance, generate_codes
from janus_train.infer.image_inputs import image_features, prompt_embeds
from janus_train.infer.load import LoadedModel, load_model
from janus_train.interop.convert import export_model, import_official
from janus_train.interop.model_folder import open_folder
from janus_train.model.build import build
from janus_train.model.vq import decode_codes
from tests.interop.conftest import same, stored
from tests.model.model_configs import model_config

pytestmark = pytest.mark.official

PYTHON = "JANUS_OFFICIAL_PYTHON"
GUIDANCE, NEW_TOKENS = 5.0, 12
SIZES = [(500, 333), (333, 500), (1023, 77), (9, 5)]
LOOK = "<image_placeholder>"
CONVERSATIONS = [
    [(USER, f"{LOOK}\nWhat colour is the background?"), (ASSISTANT, "")],
    [(USER, f"{LOOK} is Figure 1.\n{LOOK} is Figure 2.\n哪一张更亮？"), (ASSISTANT, "")],
    [(USER, f"Look:{LOOK}"), (ASSISTANT, "Blue. 苹果"), (USER, " And now? \n"), (ASSISTANT, "")],
    [(USER, "Hello  there"), (ASSISTANT, "")],
]
PROMPTS = ["a red apple to the left of a dog", " 苹果是红色的。\n"]


@dataclass(frozen=True)
class Both:
    """Our model, and what the official code found with its export."""

    ours: LoadedModel
    export: Path
    loading: dict[str, list[str]]
    theirs: dict[str, np.ndarray]
    saved: Path

    def prompts(self) -> list[list[int]]:
        return [self.ours.encoder.chat_prompt_ids(messages(turns), places(turns)) for turns in CONVERSATIONS]


def messages(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def places(turns: list[tuple[str, str]]) -> int:
    return sum(content.count(LOOK) for _, content in turns)


def images() -> list[list[Image.Image]]:
    """Noise in other sizes than the encoder's, for each conversation."""
    rng = np.random.default_rng(5)
    made = iter([Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)) for width, height in SIZES])
    return [[next(made) for _ in range(places(turns))] for turns in CONVERSATIONS]


@pytest.fixture(scope="module")
def official_python() -> str:
    return official_interpreter()


def official_interpreter() -> str:
    """The interpreter with the official package; without one the test is skipped."""
    found = os.environ.get(PYTHON)
    if not found:
        pytest.skip(f"{PYTHON} names no interpreter with deepseek-ai/Janus installed")
    return found


@pytest.fixture(scope="module")
def both(
    official_python: str, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Both]:
    work = tmp_path_factory.mktemp("official_code")
    try:
        make_model(tokenizer, work / "hf")
        assert export_model(str(work / "hf"), work / "export", "official") == []
        asked = {"prompts": PROMPTS, "guidance": GUIDANCE, "new_tokens": NEW_TOKENS, "conversations": []}
        for number, (turns, looked_at) in enumerate(zip(CONVERSATIONS, images(), strict=True)):
            paths = [str(work / f"{number}-{i}.png") for i in range(len(looked_at))]
            for path, image in zip(paths, looked_at, strict=True):
                image.save(path)
            first, *others = messages(turns)
            asked["conversations"].append([{**first, "images": paths}, *others])
        (work / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        (work / "out").mkdir()
        worker = Path(__file__).with_name("official_worker.py")
        command = [official_python, str(worker), str(work / "export"), str(work / "asked.json"), str(work / "out")]
        done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        yield Both(
            load_model(work / "hf"),
            work / "export",
            json.loads((work / "out/loading.json").read_text()),
            dict(np.load(work / "out/answers.npz")),
            work / "out/saved",
        )
    finally:
        shutil.rmtree(work)


def make_model(tokenizer: PreTrainedTokenizerFast, target: Path) -> None:
    """The real encoders and a small language model whose settings are not the official code's defaults."""
    text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 448}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 50000.0}
    torch.manual_seed(3)
    janus = build(model_config("janus_pro_1b", text=text), **vars(SpecialTokens.of(tokenizer)))
    with torch.no_grad():
        for parameter in janus.parameters():  # at transformers' 0.02 every logit is about 0 and every answer the same
            if parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        janus.get_input_embeddings().weight.normal_()  # or the token before would matter little, and answers repeat one
    janus.save_pretrained(target)
    tokenizer.save_pretrained(target)


def relative(ours: torch.Tensor, theirs: np.ndarray) -> float:
    return float(np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max())


def test_every_tensor_finds_its_place(both: Both) -> None:
    assert both.loading.keys() >= {"missing_keys", "unexpected_keys", "mismatched_keys"}
    assert not any(both.loading.values()), both.loading


def test_prompts_and_pixels_are_the_same(both: Both) -> None:
    for number, (prompt, looked_at) in enumerate(zip(both.prompts(), images(), strict=True)):
        assert both.theirs[f"understand{number}/ids"].tolist() == prompt
        pixels = [to_float(understanding_pixels(image, 384)) for image in looked_at]
        assert np.array_equal(both.theirs[f"understand{number}/pixels"], np.asarray(pixels).reshape(-1, 3, 384, 384))
    for number, prompt in enumerate(PROMPTS):
        assert both.theirs[f"draw{number}/ids"].tolist() == both.ours.encoder.generation_prompt_ids(prompt)


def test_it_understands_the_same(both: Both) -> None:
    janus, encoder = both.ours.janus, both.ours.encoder
    for number, (prompt, looked_at) in enumerate(zip(both.prompts(), images(), strict=True)):
        with inference(janus):
            features = [image_features(janus, encoder, looked_at)] if looked_at else []
            embeds = prompt_embeds(janus, torch.tensor([prompt]), features)
            logits = janus.lm_head(janus.model.language_model(inputs_embeds=embeds).last_hidden_state)
        assert relative(logits[0], both.theirs[f"understand{number}/logits"]) < 1e-5
    in_order = [image for looked_at in images() for image in looked_at]
    answers = answer_ids(janus, encoder, both.prompts(), in_order, NEW_TOKENS)  # all of them in one batch
    for number, answer in enumerate(answers):
        theirs = both.theirs[f"understand{number}/answer"].tolist()
        assert len(set(theirs)) > 3, "an answer of one token would show little"
        assert [token for token in theirs if token != encoder.special.eos] == answer


def test_it_draws_the_same(both: Both) -> None:
    janus, encoder = both.ours.janus, both.ours.encoder
    heads: list[torch.Tensor] = []
    watch = janus.model.generation_head.register_forward_hook(lambda module, given, made: heads.append(made))
    ids = [encoder.generation_prompt_ids(prompt) for prompt in PROMPTS]
    how = {"guidance": GUIDANCE, "temperature": 1.0, "seeds": [0, 0], "greedy": True}
    codes = generate_codes(janus, ids, pad_id=encoder.special.pad, **how)  # of both in one batch
    watch.remove()
    logits = torch.stack([apply_guidance(step, GUIDANCE) for step in heads], dim=1)  # (2, 576, 16384)
    drawn = decode_codes(janus.model.vqmodel, codes)
    for number, (own_codes, own_logits, image) in enumerate(zip(codes, logits, drawn, strict=True)):
        theirs = {name: both.theirs[f"draw{number}/{name}"] for name in ("codes", "guided", "picture")}
        assert len(set(theirs["codes"].tolist())) > 50, "an image of a few codes would show little"
        assert np.array_equal(own_codes.numpy(), theirs["codes"])
        assert relative(own_logits, theirs["guided"]) < 1e-5
        assert np.abs(image.numpy().astype(int) - theirs["picture"]).max() <= 1


def test_what_the_official_code_saves_comes_back_byte_for_byte(both: Both, tmp_path: Path) -> None:
    import_official(str(both.saved), tmp_path / "hf")
    assert export_model(str(tmp_path / "hf"), tmp_path / "back", "official") == []
    held = stored(both.saved)
    assert held["gen_head.vision_head.weight"].dtype == torch.bfloat16
    assert same(stored(tmp_path / "back"), held)
    first, last = open_folder(both.saved), open_folder(tmp_path / "back")
    assert first.config.to_dict() == last.config.to_dict() == open_folder(both.export).config.to_dict()
    assert first.tokenizer.get_vocab() == last.tokenizer.get_vocab() == both.ours.encoder.tokenizer.get_vocab()
