"""Samples longer than a row are found by their tokens alone, and a start says what it can know of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from janus_train.data import lengths
from janus_train.data.lengths import LengthCheck, describe, first_long_samples
from janus_train.data.recipe import Recipe
from janus_train.data.special_tokens import PLACEHOLDER
from janus_train.data.templates import get_template
from janus_train.data.types import BadSample, Record, TooLong
from tests.helpers import config_of, encoded, make_shard, plain_image

LONG = "word " * 300
ASK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho."}]


@pytest.fixture
def check(tokenizer: PreTrainedTokenizerFast) -> LengthCheck:
    return LengthCheck(tokenizer, tokens_per_image=64, system_prompt="Look.", row_tokens=256)


def test_what_training_does_with_a_long_sample(check: LengthCheck, tokenizer: PreTrainedTokenizerFast) -> None:
    image = plain_image()
    for template, kind, record, effect in (
        ("text", "text", Record("k", {"text": LONG}, []), "cut"),
        ("text", "text", Record("k", {"text": "short"}, []), None),
        ("interleaved", "understanding", Record("k", {"text": PLACEHOLDER + LONG}, [image]), "cut"),
        ("interleaved", "understanding", Record("k", {"text": f"{PLACEHOLDER} short"}, [image]), None),
        ("image_caption", "understanding", Record("k", {"caption": "short"}, [image]), None),
        ("conversation", "text", Record("k", {"conversations": ASK}, []), None),
        (
            "conversation",
            "text",
            Record("k", {"conversations": [*ASK, {"role": "user", "content": LONG}, ASK[1]]}, []),
            "shortened",
        ),
    ):
        assert check.effect(record, get_template(template), kind) == effect, (template, record.fields)
    for record in (Record("k", {"caption": LONG}, [image]), Record("k", {"caption": LONG * 99}, [image])):
        with pytest.raises(TooLong, match="do not fit a row of 256"):
            check.effect(record, get_template("image_caption"), "understanding")
    with pytest.raises(TooLong, match="an image of 302 tokens does not fit a row of 256, and images are never cut"):
        LengthCheck(tokenizer, 300, "", 256).effect(
            Record("k", {"text": PLACEHOLDER + LONG}, [image]), get_template("interleaved"), "understanding"
        )
    with pytest.raises(BadSample) as error:
        check.effect(Record("k", {"caption": " "}, [image]), get_template("image_caption"), "understanding")
    assert not isinstance(error.value, TooLong)


def test_counts_in_words() -> None:
    assert describe(Counter(cut=1, skipped=2000)) == "2,000 skipped and counted as bad, 1 cut over several rows"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Of 30 captions and of 30 texts the last is too long."""
    captions: dict[str, object] = {}
    for number in range(30):
        words = LONG if number == 29 else "short"
        captions |= {f"c{number:02d}.json": {"caption": words}, f"c{number:02d}.png": encoded(plain_image())}
    make_shard(tmp_path / "captions.tar", captions)  # type: ignore[arg-type]
    make_shard(tmp_path / "texts.tar", {f"t{n:02d}.json": {"text": LONG if n == 29 else "short"} for n in range(30)})
    sources = [
        {"name": "captions", "kind": "understanding", "template": "image_caption", "paths": ["captions.tar"]},
        {"name": "draw", "kind": "generation", "template": "text_to_image", "paths": ["captions.tar"]},
        {"name": "texts", "kind": "text", "template": "text", "paths": ["texts.tar"]},
    ]
    values = {"name": "r", "licence": "none", "sources": [{"type": "shards", "weight": 1, **s} for s in sources]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    return Recipe(str(tmp_path / "recipe.yaml"), config_of("+stage=2").ratio, 64)


def test_a_start_says_what_the_first_samples_show(
    recipe: Recipe, check: LengthCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "1 of its 30 samples are longer than a row of 256 tokens: 1 skipped and counted as bad, the first is 'c29'"
    end = "more than data.max_bad=0.01 end the run: shorten them, or raise it or batch.row_tokens"
    assert first_long_samples(recipe, check, 0.1) == [f"source {name!r}: {line}" for name in ("captions", "draw")]
    assert first_long_samples(recipe, check, 0.01) == [
        f"source {name!r}: {text}" for name in ("captions", "draw") for text in (line, end)
    ]
    monkeypatch.setattr(lengths, "NUM_FIRST", 29)
    assert first_long_samples(recipe, check, 0.01) == []
    monkeypatch.setattr(lengths, "NUM_FIRST", 30)
    monkeypatch.setattr(lengths, "LIMIT_S", -1.0)
    assert first_long_samples(recipe, check, 0.01) == []


def test_a_start_is_silent_about_documents_that_are_cut_and_names_those_with_images_that_fit_no_row(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    make_shard(tmp_path / "a.tar", {"a.json": {"text": PLACEHOLDER + LONG}, "a.png": encoded(plain_image())})
    source = {"name": "pages", "kind": "understanding", "type": "shards", "template": "interleaved", "weight": 1}
    values = {"name": "r", "licence": "none", "sources": [source | {"paths": ["a.tar"]}]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    ratio = config_of("+stage=2", "ratio.text=0", "ratio.generation=0").ratio
    recipe = Recipe(str(tmp_path / "recipe.yaml"), ratio, 64)
    assert first_long_samples(recipe, LengthCheck(tokenizer, 64, "", 256), 0.5) == []
    line = "source 'pages': 1 of its 1 samples are longer than a row of 256 tokens: 1 skipped and counted as bad"
    assert first_long_samples(recipe, LengthCheck(tokenizer, 300, "", 256), 1.0) == [f"{line}, the first is 'a'"]
