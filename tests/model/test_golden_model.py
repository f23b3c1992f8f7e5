"""Every forward path against the numbers of the official implementation (tests/golden/README.md).

The real vision tower and VQ tokenizer with weights by rule, a small language model. All values in fp32; "relative" is
the largest difference over the largest value. What is left is the order in which sums are taken, which depends on the
machine's kernels: the tolerances leave room for it, and are far below what any known mistake does.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import JanusForConditionalGeneration

from janus_train.data.images import to_float, understanding_pixels
from janus_train.interop.official import from_official, is_extra
from janus_train.model.build import prepare, transformers_config
from janus_train.model.chunked_cross_entropy import text_head
from janus_train.model.janus import PackedJanus
from janus_train.model.losses import LossSums, cross_entropies
from janus_train.model.vq import encode_images
from tests.model.model_configs import model_config
from tests.model.reference import GENERATION, UNDERSTANDING, Codes, ImageIn, Text, to_batch

GOLDEN = Path(__file__).parents[1] / "golden"
SIZES = [(384, 384), (500, 333), (333, 500), (1023, 77), (64, 64)]
PAD, TOKENS, SIZE = 999, 576, 384


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "official_outputs.npz"))


def rule(name: str, shape: list[int]) -> torch.Tensor:
    """The weight that the README's rule gives an official name."""
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        z = 1 + np.float32(0.1) * z if name.endswith("weight") else np.float32(0.02) * z
    else:
        z *= np.float32(0.02) if len(shape) == 3 else 1 / np.sqrt(np.prod(shape[1:]), dtype=np.float32)
    return torch.from_numpy(z)


@pytest.fixture(scope="module")
def official() -> JanusForConditionalGeneration:
    """1.5 GB, made once and freed with the module."""
    return official_model()


def official_model() -> JanusForConditionalGeneration:
    """The README's model."""
    shapes = json.loads((GOLDEN / "official_state_dict_shapes.json").read_text())
    names = [name for name in shapes if not is_extra(name)]
    with ThreadPoolExecutor(2) as pool:
        weights = dict(from_official(zip(names, pool.map(lambda name: rule(name, shapes[name]), names), strict=True)))
    text = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 1000,
    }
    config = transformers_config(model_config("janus_pro_1b", text=text), None, None, PAD, None)
    janus, report = JanusForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=weights, output_loading_info=True
    )
    assert not any(report.values()), f"the name mapping is not one to one: {report}"
    return janus


def image(i: int) -> np.ndarray:
    """uint8 (h, w, 3), by the README's rule."""
    width, height = SIZES[i]
    r = np.random.default_rng(100 + i)
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float64)
    a = np.zeros((height, width, 3))
    for c in range(3):
        for _ in range(6):
            fx, fy = r.uniform(0, 12, 1)[0] / width, r.uniform(0, 12, 1)[0] / height
            a[..., c] += np.sin(2 * np.pi * (fx * xx + fy * yy) + r.uniform(0, 6.28))
    return ((a - a.min()) / (a.max() - a.min()) * 255).astype(np.uint8)


def pixels(i: int) -> torch.Tensor:
    return torch.from_numpy(to_float(understanding_pixels(Image.fromarray(image(i)), SIZE)))


def relative(actual: torch.Tensor, expected: np.ndarray) -> float:
    difference = np.abs(actual.detach().numpy().reshape(expected.shape) - expected)
    return float(difference.max() / np.abs(expected).max())


@dataclass
class Run:
    """What one packed forward over both golden samples showed on its way."""

    features: torch.Tensor  # (576, 1024)
    aligned: torch.Tensor  # (576, 64)
    gen_embeds: torch.Tensor  # (576, 64)
    text_logits: torch.Tensor  # (7, 1000)
    image_logits: torch.Tensor  # (576, 16384)
    sums: LossSums


def prompts() -> tuple[list[int], list[int]]:
    """The understanding sample's text and the generation prompt."""
    return (np.arange(12) * 37 % 1000).tolist(), (np.arange(9) * 53 % 1000).tolist()


@pytest.fixture(scope="module")
def run(official: JanusForConditionalGeneration, golden: dict[str, np.ndarray]) -> Run:
    """The two samples in one row, through the training path. The text targets are made up: token + 1."""
    seen: dict[str, torch.Tensor] = {}

    def watch(module: torch.nn.Module, name: str) -> torch.utils.hooks.RemovableHandle:
        def keep(module: object, inputs: object, output: object) -> None:
            seen[name] = getattr(output, "last_hidden_state", output)  # type: ignore[assignment]

        return module.register_forward_hook(keep)

    janus = prepare(official)
    text_head(janus).chunked = False  # so that there are logits to look at
    handles = [
        watch(janus.model.vision_model, "features"),
        watch(janus.model.aligner, "aligned"),
        watch(janus.model.generation_aligner, "gen_embeds"),
        watch(janus.lm_head, "text_logits"),
        watch(janus.model.generation_head, "image_logits"),
    ]
    words, prompt = prompts()
    looking = [Text(words[:5]), ImageIn(pixels(0)), Text(words[5:])]
    drawing = [Text(prompt), Codes(torch.from_numpy(golden["vq_ids"][0]))]
    batch = to_batch([(UNDERSTANDING, looking), (GENERATION, drawing)], TOKENS, SIZE)
    batch.text_positions = torch.arange(5 + TOKENS, 12 + TOKENS)
    batch.text_targets = (torch.tensor(words[5:]) + 1) % 1000
    batch.text_target_is_understanding = torch.ones(7, dtype=torch.bool)
    batch.num_understanding_targets = 7
    with torch.no_grad():
        sums = PackedJanus(janus)(batch)
    for handle in handles:
        handle.remove()
    return Run(
        seen["features"][0], seen["aligned"][0], seen["gen_embeds"], seen["text_logits"], seen["image_logits"], sums
    )


@pytest.mark.parametrize("i", range(5))
def test_understanding_pixels(golden: dict[str, np.ndarray], i: int) -> None:
    """Exactly: truncation of the resized side, bicubic, 127 around it."""
    original = image(i)
    assert hashlib.sha256(original.tobytes()).digest() == golden[f"picture{i}_sha256"].tobytes()
    actual = to_float(understanding_pixels(Image.fromarray(original), SIZE))
    assert np.array_equal(actual[:, ::8, ::8], golden[f"und_pixels{i}"])
    np.testing.assert_allclose(
        actual.mean((1, 2)), golden[f"und_pixels{i}_mean"], atol=1e-5
    )  # the order of 147,456 terms


def test_vision_features_and_adaptor(
    official: JanusForConditionalGeneration, run: Run, golden: dict[str, np.ndarray]
) -> None:
    """Image 0 in the packed row; image 1, which has grey bars, as chat reads it."""
    assert relative(run.features[::48, ::8], golden["vision_features"][0]) < 1e-5
    assert relative(run.aligned[::48], golden["aligned"][0]) < 1e-5
    with torch.no_grad():
        outputs = official.model.get_image_features(pixels(1)[None])
    features, aligned = outputs.last_hidden_state[0], outputs.pooler_output[0]
    assert relative(features[::48, ::8], golden["vision_features"][1]) < 1e-5
    assert relative(aligned[::48], golden["aligned"][1]) < 1e-5


def test_generation_embeddings(
    official: JanusForConditionalGeneration, run: Run, golden: dict[str, np.ndarray]
) -> None:
    """Image 0's codes in the packed row; image 4's as drawing feeds them."""
    assert relative(run.gen_embeds[::48], golden["gen_embeds"][0]) < 1e-5
    with torch.no_grad():
        embeds = official.prepare_embeddings_for_image_generation(torch.from_numpy(golden["vq_ids"][1]))
    assert relative(embeds[::48], golden["gen_embeds"][1]) < 1e-5


def test_understanding_logits(run: Run, golden: dict[str, np.ndarray]) -> None:
    assert relative(run.text_logits, golden["und_text_logits"]) < 1e-5
    targets = (torch.tensor(prompts()[0][5:]) + 1) % 1000
    expected = cross_entropies(torch.from_numpy(golden["und_text_logits"][0]), targets).sum()
    torch.testing.assert_close(run.sums.understanding, expected, rtol=1e-5, atol=0)
    assert run.sums.num_understanding == 7 and run.sums.text == 0


def test_generation_logits_and_loss(run: Run, golden: dict[str, np.ndarray]) -> None:
    """All 576 codes have their loss, the first one from the prompt's last token."""
    assert relative(run.image_logits[::96, ::32], golden["gen_logits"]) < 1e-5
    losses = cross_entropies(run.image_logits, torch.from_numpy(golden["vq_ids"][0]))
    assert relative(losses, golden["gen_ce_per_token"]) < 1e-5
    assert run.sums.generation.item() == pytest.approx(golden["gen_ce_per_token"].sum(dtype=np.float64), rel=1e-5)
    assert run.sums.num_generation == TOKENS


def test_guidance(
    official: JanusForConditionalGeneration, golden: dict[str, np.ndarray], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row without its text: first and last token stay, all between is pad, and pad is attended to."""
    _, prompt = prompts()
    dropped = [prompt[0], *[PAD] * (len(prompt) - 2), prompt[-1]]
    codes = torch.from_numpy(golden["vq_ids"][0])
    batch = to_batch([(GENERATION, [Text(dropped), Codes(codes)])], TOKENS, SIZE)
    packed = PackedJanus(official)
    monkeypatch.setattr(packed, "features", lambda pixels: torch.zeros(0, 64))  # spare the tower's dummy image
    with torch.no_grad():
        hidden = packed.hidden_states(packed.embeddings(batch, codes[None]), batch)
        without = official.model.generation_head(hidden[batch.image_loss_positions])
    guided = without + 5 * (run.image_logits - without)
    assert relative(guided[::96, ::32], golden["cfg_logits_w5"]) < 1e-5


@pytest.mark.parametrize(("n", "i"), [(0, 0), (1, 4)])
def test_code_ids(official: JanusForConditionalGeneration, golden: dict[str, np.ndarray], n: int, i: int) -> None:
    """Images 0 and 4; where two codes are as near to within 1e-4, either may win."""
    ids = encode_images(official.model.vqmodel, pixels(i)[None]).numpy()[0]
    clear = golden["vq_margin"][n] > 1e-4
    assert clear.mean() > 0.98 and np.array_equal(ids[clear], golden["vq_ids"][n][clear])


@pytest.mark.parametrize("n", [0, 1])
def test_decoded_image(official: JanusForConditionalGeneration, golden: dict[str, np.ndarray], n: int) -> None:
    with torch.no_grad():
        decoded = official.model.vqmodel.decode(torch.from_numpy(golden["vq_ids"][n : n + 1]))
    assert relative(decoded[:, :, ::16, ::16], golden["vq_decoded"][n : n + 1]) < 1e-5


def test_no_golden_value_is_left_out(golden: dict[str, np.ndarray]) -> None:
    """A vector that someone adds must be compared too."""
    images = {f"{name}{i}{end}" for i in range(5) for name, end in (("picture", "_sha256"), ("und_pixels", ""))}
    images |= {f"und_pixels{i}_mean" for i in range(5)}
    pairs = {"vision_features", "aligned", "vq_ids", "vq_margin", "vq_decoded", "gen_embeds"}
    assert golden.keys() == images | pairs | {
        "und_text_logits", "gen_logits", "gen_ce_per_token", "cfg_logits_w5",
    }  # fmt: skip
    assert all(len(golden[name]) == 2 for name in pairs)
