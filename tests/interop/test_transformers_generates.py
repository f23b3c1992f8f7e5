"""An exported folder, and a run's ``final/``, in transformers' own hands draw and answer what they do in ours, at temperature 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import JanusForConditionalGeneration, JanusProcessor

from janus_train.infer.chat import answer_ids, open_turn
from janus_train.infer.generate import generate_codes
from janus_train.infer.load import LoadedModel, load_model
from janus_train.interop.convert import export_model, import_official
from janus_train.train.run import run
from tests.helpers import NO_DRAWING, TRANSFORMERS_DRAWS, config_of
from tests.interop.conftest import SIZE, distinct_model
from tests.train.conftest import SMALL

CODES = (SIZE // 8) ** 2
STEPS = 12


@pytest.fixture(scope="module", params=["hf", "official", "run"])
def exported(request, tokenizer, tmp_path_factory) -> Path:
    """A model that tells prompts and images apart, after an export; by way of the official layout, too, and a run's result."""
    root = tmp_path_factory.mktemp("exported")
    distinct_model(tokenizer).save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    if request.param == "run":
        config = config_of(
            "+stage=1", "model=from_folder", f"init_from={root / 'model'}", f"output_dir={root / 'run'}",
            "run.steps=1", "data=demo", "precision=fp32", *SMALL,
        )  # fmt: skip
        return run(config) / "final"
    export_model(str(root / "model"), root / request.param, request.param)
    if request.param == "official":
        import_official(str(root / "official"), root / "hf")
    return root / "hf"


@pytest.fixture(scope="module")
def theirs(exported: Path) -> JanusForConditionalGeneration:
    return JanusForConditionalGeneration.from_pretrained(exported).eval()


@pytest.fixture(scope="module")
def processor(exported: Path) -> JanusProcessor:
    return JanusProcessor.from_pretrained(exported)


@pytest.fixture(scope="module")
def ours(exported: Path) -> LoadedModel:
    return load_model(exported)


@pytest.mark.skipif(not TRANSFORMERS_DRAWS, reason=NO_DRAWING)
def test_drawing(theirs: JanusForConditionalGeneration, processor: JanusProcessor, ours: LoadedModel) -> None:
    prompts = ["a red apple", "a dog on the right, on a blue background"]
    asked = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = [processor.apply_chat_template(one, add_generation_prompt=True) for one in asked]
    ids = [ours.encoder.generation_prompt_ids(prompt) for prompt in prompts]
    for n, text in enumerate(texts):  # one at a time: transformers' left padding is not told from guidance's pads
        given = processor(text=[text], generation_mode="image", return_tensors="pt")
        assert given.input_ids[0].tolist() == ids[n]
        drawn = theirs.generate(**given, generation_mode="image", do_sample=False, max_new_tokens=CODES)
        mine = generate_codes(
            ours.janus,
            [ids[n]],
            pad_id=ours.encoder.special.pad,
            guidance=ours.guidance,
            temperature=1.0,
            seeds=[0],
            greedy=True,
        )
        assert drawn.tolist() == mine.tolist() and len(set(drawn[0].tolist())) > 4
        with torch.no_grad():
            decoded = theirs.decode_image_tokens(drawn).permute(0, 3, 1, 2)
        shown = processor.postprocess(list(decoded.float()), return_tensors="PIL.Image.Image")["pixel_values"][0]
        (image,) = ours.generate([prompts[n]], seeds=[0], temperature=0)
        off = np.abs(np.asarray(shown, int) - np.asarray(image, int))
        assert off.max() <= 1, "one level: the official code truncates, transformers may round"


def test_answering(theirs: JanusForConditionalGeneration, processor: JanusProcessor, ours: LoadedModel) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    images = [
        Image.fromarray(one) for one in pixels
    ]  # of the encoder's size: nothing is scaled, where transformers rounds otherwise
    said = []
    for shown, words in ((images[:1], "What?"), (images, "Which one is larger?"), ([], "Hello, who is there?")):
        content = [{"type": "image"}] * len(shown) + [{"type": "text", "text": words}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        given = processor(text=text, images=shown or None, return_tensors="pt")
        answered = theirs.generate(**given, generation_mode="text", do_sample=False, max_new_tokens=STEPS)
        new = answered[0, given.input_ids.shape[1] :].tolist()
        request = [{"role": "user", "content": "<image_placeholder>\n" * len(shown) + words}]
        prompt = ours.encoder.chat_prompt_ids(open_turn(request), len(shown))
        assert given.input_ids[0].tolist() == prompt
        eos = ours.encoder.special.eos
        new = new[: new.index(eos)] if eos in new else new
        assert answer_ids(ours.janus, ours.encoder, [prompt], shown, STEPS)[0] == new
        said.append(tuple(new))
    assert len(set(said)) == 3, "requests make no difference: the test would prove nothing"
