"""Editing data: prepared, trained on, and drawn from, through the same commands as everything else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_train.config import Config
from janus_train.errors import UserError
from janus_train.infer.load import load_model
from janus_train.interop.processor import load_tokenizer
from janus_train.train.run import run as train
from tests.datatools.prepare.making import image_bytes, make, write
from tests.helpers import Run, config_of, encoded, plain_image, read_lines
from tests.train.conftest import SMALL


def test_editing_data_trains(small: Callable[..., Config], tmp_path: Path) -> None:
    """As docs/data.md has it: an `<image>` in the answer is the image to draw, and it alone has loss."""
    for n in range(8):
        write(tmp_path / f"pictures/{n}.png", image_bytes(n, "PNG"))
    said = [{"from": "human", "value": "<image>\nMake it red."}, {"from": "gpt", "value": "<image>"}]
    records = [{"image": [f"{n}.png", f"{n + 1}.png"], "conversations": said} for n in range(0, 8, 2)]
    lines = write(tmp_path / "edits.jsonl", records)
    made = make("conversations", lines, out=tmp_path / "edits", images=str(tmp_path / "pictures"))
    assert made["samples"] == 4
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: edits\nlicence: mine\nsources:\n  - {name: edits, kind: generation, type: shards, template: conversation, weight: 1, paths: [edits/*.tar]}\n"
    )
    only = ("ratio.understanding=0", "ratio.text=0", f"data.recipe={recipe}", "data.guidance_dropout=0")
    folder = train(small(3, *only, "+peft=lora", "run.steps=2", "precision=fp32"))
    for line in read_lines(folder / "metrics.jsonl"):
        assert math.isfinite(line["loss/generation"]) and line["loss"] == line["loss/generation"]
        assert line["loss/text"] is None and line["loss/understanding"] is None
        assert line["samples/generation"] > 0 and line["quarantined"] == 0


COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}
OTHER = {"red": "blue", "blue": "red"}


def test_a_small_model_learns_to_edit(tmp_path: Path, run: Run) -> None:
    """Of four edits neither the words nor the image say alone what to draw: both have to be followed.

    Trained with drop-out of each, it draws the same under one scale of guidance, and under two.
    """
    for name, colour in COLOURS.items():
        write(tmp_path / f"images/{name}.png", encoded(plain_image(colour, (96, 96))))
    edits = [(before, words) for before in COLOURS for words in ("Keep it.", "Turn it.")]
    after = {edit: edit[0] if edit[1] == "Keep it." else OTHER[edit[0]] for edit in edits}
    records = [
        {"input_prompt": words, "input_image": [f"{before}.png"], "output_image": f"{after[before, words]}.png"}
        for before, words in edits
    ]
    made = make(
        "editing", write(tmp_path / "edits.json", records), out=tmp_path / "edits", images=str(tmp_path / "images")
    )
    assert made["samples"] == 4
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: edits\nlicence: mine\nsources:\n  - {name: edits, kind: generation, type: shards, template: editing, weight: 1, paths: [edits/*.tar]}\n"
    )
    options = (
        *("+stage=3", f"data.recipe={recipe}", "init_from=data_recipes/demo/base", f"output_dir={tmp_path / 'run'}"),
        *("ratio.understanding=0", "ratio.text=0", "run.steps=90", "optim.learning_rate=2e-3", "batch.row_tokens=384"),
        *("run.checkpoint_every=0", "run.sample_every=0", "run.cpu_threads=1", "run.log_every=1"),
        "data.editing_dropout={text: 0.1, images: 0.1, both: 0.1}",
    )
    final = train(config_of(*options))
    losses = [line["loss/generation"] for line in read_lines(final / "metrics.jsonl")]
    assert losses[0] > 5 and sum(losses[-5:]) / 5 < 0.5
    loaded = load_model(final / "final")
    for before, words in edits:
        for guidance, image_guidance in ((1.0, None), (2.0, None), (2.0, 1.5)):
            [image] = loaded.generate(
                [words],
                images=[plain_image(COLOURS[before], (96, 96))],
                seeds=[0],
                temperature=0,
                guidance=guidance,
                image_guidance=image_guidance,
            )
            red, _, blue = np.asarray(image).mean((0, 1))
            assert ("red" if red > blue else "blue") == after[before, words], (before, words, guidance, image_guidance)
    out = tmp_path / "drawn"
    words = ("--image", tmp_path / "images/red.png", "--image-guidance", 1.5, "--guidance", 2, "--num-images", 1)
    code, output, said = run(
        "generate", final / "final", "--prompt", "Turn it.", *words, "--temperature", 0, "--out", out
    )
    assert code == 0, said
    [line] = read_lines(out / "metadata.jsonl")
    assert (line["guidance"], line["image_guidance"], line["prompt"]) == (2.0, 1.5, "Turn it.")
    with Image.open(output.split()[0]) as image:
        red, _, blue = np.asarray(image.convert("RGB")).mean((0, 1))
    assert blue > red
    code, _, said = run("generate", final / "final", "--prompt", "Turn it.", "--image-guidance", 1.5, "--out", out)
    assert code == 2 and "--image-guidance is the scale of the guidance by an image: name one with --image" in said
    with pytest.raises(UserError, match=r"image_guidance 1.5 needs images"):
        loaded.generate(["Turn it."], seeds=[0], image_guidance=1.5)


def test_layouts_as_they_are_published_train_without_prepare(
    small: Callable[..., Config], run: Run, tmp_path: Path
) -> None:
    """LLaVA's, OpenAI's and Qwen's in one file with blank lines; an answer without loss is in the row and not in the loss."""
    write(tmp_path / "p0.png", image_bytes(0, "PNG"))
    answers = [{"role": "assistant", "content": "A dog.", "weight": 0}, {"role": "assistant", "content": "Two."}]
    again = {"role": "user", "content": "How many?"}
    seen = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "p0.png"}}]}
    told = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "Tom."}]
    records = [
        {"image": "p0.png", "conversations": told},
        {"messages": [seen, answers[0], again, answers[1]], "system": "Be brief."},
        {"messages": [{"role": "user", "content": "Picture 1: <img>p0.png</img> What?"}, answers[1]]},
    ]
    write(tmp_path / "talks.jsonl", "\n\n".join(map(json.dumps, records)) + "\n\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: talks\nlicence: mine\nsources:\n  - {name: talks, kind: understanding, type: jsonl, template: conversation, weight: 1, paths: [talks.jsonl]}\n"
    )
    code, output, _ = run("verify", recipe, "--workers", 1)
    assert code == 0 and "fit for training: 3 samples, none damaged, none bad" in output
    words = ("ratio.text=0", "ratio.generation=0", f"data.recipe={recipe}", "data.guidance_dropout=0")
    config = small(3, *words, "run.steps=1")
    base = ("+stage=3", f"init_from={config.init_from}", *SMALL, *words)
    code, output, _ = run("inspect", *base, "--html", tmp_path / "rows.html")
    samples = [sample for line in output.splitlines() for sample in json.loads(line)["samples"]]
    keys = {sample["key"] for sample in samples}
    assert code == 0 and "talks.jsonl:3" in keys <= {f"talks.jsonl:{line}" for line in (1, 3, 5)}
    [entry] = read_lines(train(config) / "metrics.jsonl")
    assert entry["quarantined"] == 0 and entry["tokens/understanding"] == sum(sample["tokens"] for sample in samples)
    tokenizer = load_tokenizer(Path(str(config.init_from)))
    lengths = {
        line: len(tokenizer(words, add_special_tokens=False).input_ids) + 1  # EOS
        for line, words in ((1, " Tom."), (3, " Two."), (5, " Two."))
    }
    assert entry["loss_tokens"] == sum(lengths[int(sample["key"].partition(":")[2])] for sample in samples)
