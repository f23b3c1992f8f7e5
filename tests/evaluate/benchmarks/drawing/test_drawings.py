"""An image of a benchmark is that of its prompt, its number and the seed, whatever is drawn beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.drawing.drawings import image_seed
from janus_train.evaluate.benchmarks.registry import Context
from janus_train.evaluate.benchmarks.tasks.geneval import Geneval
from janus_train.infer.load import load_model
from tests.evaluate.benchmarks.drawing.geneval_data import LINES, write_prompts
from tests.evaluate.benchmarks.making import short_protocol


def test_seeds_are_their_own_for_each_prompt_image_and_seed() -> None:
    seeds = [image_seed(seed, prompt, n) for seed in range(9) for prompt in ("a dog", "a cat") for n in range(9)]
    assert len(set(seeds)) == len(seeds) and min(seeds) >= 0 and max(seeds) < 2**62
    assert image_seed(0, "a dog", 0) == 2553701293490925504, "what was drawn once can be drawn again"


def test_processes_that_share_the_images_draw_the_same_ones(tmp_path: Path, random_base: Path) -> None:
    write_prompts(tmp_path / "data", LINES[:2])
    task = Geneval().open(tmp_path / "data", short_protocol())
    model = load_model(random_base)
    task.answer(Context(model, tmp_path / "alone", 3, 8), range(8))
    for rank, batch_size in ((2, 1), (0, 4), (1, 2)):  # three processes, of which each takes every third image
        task.answer(Context(model, tmp_path / "shared", 3, batch_size), range(8)[rank::3])
    for key in task.keys:
        image, other = (np.asarray(Image.open(tmp_path / name / "images" / key)) for name in ("alone", "shared"))
        assert np.array_equal(image, other)


def test_prompts_and_settings_are_in_the_digest(tmp_path: Path) -> None:
    write_prompts(tmp_path / "data", LINES[:2])
    write_prompts(tmp_path / "other", LINES[1:3])
    generation = short_protocol().generation.model_dump()
    digests = {
        Geneval().open(tmp_path / data, short_protocol(generation=generation | change)).prompts_digest
        for data, change in (("data", {}), ("other", {}), ("data", {"guidance": 4.0}), ("data", {"user": "User"}))
    }
    assert len(digests) == 4
    assert Geneval().open(tmp_path / "data", short_protocol("pro")).prompts_digest in digests


def test_a_prompt_that_does_not_fit_the_context_is_named(tmp_path: Path, random_base: Path) -> None:
    write_prompts(tmp_path / "data", [LINES[0], LINES[0] | {"prompt": "dog " * 3000}])
    task = Geneval().open(tmp_path / "data", short_protocol())
    with pytest.raises(UserError, match=r"00001/samples/0000\.png: a prompt of [\d,]+ \w+ .*do.* not fit the context"):
        task.answer(Context(load_model(random_base), tmp_path, 0, 8), [0, 4])
    assert not (tmp_path / "images").exists()
