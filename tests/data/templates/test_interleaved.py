"""Documents with images anywhere: what is learned of them, whole and in pieces."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from janus_train.config import RatioConfig
from janus_train.data.encode import Encoder
from janus_train.data.recipe import Recipe
from janus_train.data.special_tokens import BOS, EOS, PLACEHOLDER, USER
from janus_train.data.templates import chosen_template, get_template, template_for, text_before_image
from janus_train.data.types import (
    IGNORE,
    IMAGE_CODE,
    IMAGE_FEATURE,
    BadSample,
    Document,
    ImageUse,
    Kind,
    Record,
    last_cut,
)
from janus_train.data.unused import counting
from janus_train.errors import UserError
from tests.helpers import document_of, encoded, make_shard, plain_image

P = 64
TEXT = f"Melt it.\n{PLACEHOLDER}\nBeat it.{PLACEHOLDER}{PLACEHOLDER} Done."
COLOURS = ((250, 0, 0), (0, 250, 0), (0, 0, 250))
IMAGES = [plain_image(colour) for colour in COLOURS]
KINDS: dict[ImageUse, Kind] = {"in": "understanding", "out": "generation", "both": "generation"}


def record(text: str = TEXT, num_images: int = 3, codes: bool = False) -> Record:
    cached = [np.full(P, number) if codes else None for number in range(num_images)]
    return Record("k", {"text": text}, (IMAGES * 4)[:num_images], cached)  # type: ignore[arg-type]


def document(encoder: Encoder, use: ImageUse, of: Record | None = None, row_tokens: int | None = None) -> Document:
    template = chosen_template("interleaved", use, KINDS[use], "r.yaml")
    return document_of(encoder, of or record(), template, KINDS[use], row_tokens=row_tokens)


def learned(document: Document, encoder: Encoder) -> str:
    """The words with a loss."""
    return encoder.tokenizer.decode(document.labels[document.labels != IGNORE].tolist())


def layout(document: Document, encoder: Encoder) -> str:
    """The document as text, with IN or OUT for an image; OUT is learned."""
    text, at, drawn = "", 0, iter(document.codes_have_loss)
    for start, stop in document.image_spans:
        text += encoder.tokenizer.decode(document.input_ids[at:start].tolist())
        kind = document.modality[start + 1]
        text += "[IN]" if kind == IMAGE_FEATURE else "[OUT]" if next(drawn) else "[CODES]"
        at = stop
    return text + encoder.tokenizer.decode(document.input_ids[at:].tolist())


def test_images_to_look_at_have_a_loss_on_all_words_around_them(encoder: Encoder) -> None:
    looked_at = document(encoder, "in")
    assert layout(looked_at, encoder) == f"{BOS}Melt it.\n[IN]\nBeat it.[IN][IN] Done.{EOS}"
    assert learned(looked_at, encoder) == f"Melt it.\n\nBeat it. Done.{EOS}"
    assert not looked_at.image_targets.any() and not looked_at.generation_pixels
    pixels = [pixels[32, 32].tolist() for pixels in looked_at.understanding_pixels]
    assert pixels == [list(colour) for colour in COLOURS]
    # the state at <end_of_image> predicts the first word after it, and nothing predicts <begin_of_image>
    start, stop = looked_at.image_spans[0]
    assert looked_at.labels[stop - 1] == looked_at.input_ids[stop] and looked_at.labels[start - 1] == IGNORE


def test_images_to_draw_have_a_loss_on_their_codes_alone(encoder: Encoder) -> None:
    with counting() as unused:
        drawn = document(encoder, "out")
    assert layout(drawn, encoder) == f"{BOS}Melt it.\n[OUT]\nBeat it.[OUT][OUT]"
    assert learned(drawn, encoder) == "" and drawn.image_targets.sum() == 3 * P
    assert unused == {"texts after the last image to draw": 1}
    for start, _ in drawn.image_spans:
        assert drawn.image_targets[start : start + P].all() and not drawn.image_targets[start + P]


def test_images_to_draw_and_to_look_at_come_twice(encoder: Encoder) -> None:
    both = document(encoder, "both", record(codes=True))
    assert layout(both, encoder) == f"{BOS}Melt it.\n[OUT][IN]\nBeat it.[OUT][IN][OUT][IN] Done.{EOS}"
    assert learned(both, encoder) == f"Melt it.\n\nBeat it. Done.{EOS}" and both.image_targets.sum() == 3 * P
    assert [codes[0] for codes in both.codes if codes is not None] == [0, 1, 2]
    assert both.record_images == [0, 0, 1, 1, 2, 2]


def test_one_image_is_no_prompt_for_guidance_and_no_caption(encoder: Encoder) -> None:
    one = record(f"A dog. It barks. {PLACEHOLDER}", 1)
    template = chosen_template("interleaved", "out", "generation", "r.yaml")
    chance = document_of(encoder, one, template, "generation", dropout=1.0, cut=1.0)
    assert np.array_equal(chance.input_ids, document(encoder, "out", one).input_ids)
    assert encoder.special.pad not in chance.input_ids


@pytest.mark.parametrize("use", ["in", "out", "both"])
def test_pieces_have_their_images_and_all_of_their_losses(encoder: Encoder, use: ImageUse) -> None:
    whole = document(encoder, use, record("".join(f"Number {n}. {PLACEHOLDER}" for n in range(6)) + "End", 6))
    cuts = sorted({last_cut(whole.image_spans, place) for place in range(0, len(whole), 50)} | {0, len(whole)})
    pieces = [whole.piece(start, stop) for start, stop in pairwise(cuts)]
    assert len(pieces) > 6
    for name in ("input_ids", "labels", "modality", "image_targets"):
        assert np.array_equal(np.concatenate([getattr(piece, name) for piece in pieces]), getattr(whole, name)), name
    for name in ("understanding_pixels", "generation_pixels", "codes", "codes_have_loss", "record_images"):
        joined = [value for piece in pieces for value in getattr(piece, name)]
        assert all(a is b or a == b for a, b in zip(joined, getattr(whole, name), strict=True)), name
    for piece in pieces:
        assert (piece.modality == IMAGE_FEATURE).sum() == P * len(piece.understanding_pixels)
        assert (piece.modality == IMAGE_CODE).sum() == P * len(piece.codes_have_loss)
    assert sum(piece.num_loss_tokens for piece in pieces) == whole.num_loss_tokens
    assert abs(sum(piece.share for piece in pieces) - 1) < 1e-9


def test_a_piece_cannot_begin_or_end_inside_an_image(encoder: Encoder) -> None:
    whole = document(encoder, "in")
    start, stop = whole.image_spans[0]
    for place in (start + 1, stop - 1):
        assert last_cut(whole.image_spans, place) == start
        with pytest.raises(AssertionError):
            whole.piece(0, place)
    assert last_cut(whole.image_spans, stop) == stop


@pytest.mark.parametrize(
    ("text", "images", "row_tokens", "message"),
    [
        (TEXT, 2, None, "3 placeholders but 2 images"),
        ("No image.", 0, None, "it has no image: text alone is for the template text"),
        (f" {PLACEHOLDER}\n", 1, None, "no words beside the places of its images"),
        (f"{PLACEHOLDER} <image> too", 1, None, "has the tag <image>"),
        (f"{PLACEHOLDER} {USER}", 1, None, "contains the special token"),
        (TEXT, 3, P + 1, f"an image of {P + 2} tokens does not fit a row of {P + 1}, and images are never cut"),
        (f"x{PLACEHOLDER}" * 65, 65, P + 2, "65 images, at most 64 are taken"),
    ],
)
def test_documents_that_cannot_be_used_say_why(
    encoder: Encoder, text: str, images: int, row_tokens: int | None, message: str
) -> None:
    bad = Record("k", {"text": text}, (IMAGES * 30)[:images])
    with pytest.raises(BadSample, match=message):
        document(encoder, "in", bad, row_tokens)


def test_a_source_has_the_kind_of_what_its_images_are_for(tmp_path: Path) -> None:
    make_shard(tmp_path / "a.tar", {"0.json": {"text": f"A {PLACEHOLDER}"}, "0.png": encoded(IMAGES[0])})

    def recipe(kind: str, template: str = "interleaved", **options: str) -> Recipe:
        values = {"name": "a", "kind": kind, "type": "shards", "template": template, "weight": 1, "paths": ["a.tar"]}
        pairs = ", ".join(f"{name}: {value}" for name, value in (values | options).items()).replace("'", "")
        (tmp_path / "r.yaml").write_text(f"{{name: r, licence: none, sources: [{{{pairs}}}]}}")
        ratio = {"understanding": 0, "text": 0, "generation": 0} | {kind: 1}
        return Recipe(str(tmp_path / "r.yaml"), RatioConfig(unit="samples", **ratio), 64)

    plain, looked_at = recipe("understanding"), recipe("understanding", images="in")
    with pytest.raises(
        UserError, match="source 'a': template interleaved with images: in is of kind understanding, not"
    ):
        recipe("text")
    with pytest.raises(
        UserError, match="template interleaved with images: both is of kind generation, not understanding"
    ):
        recipe("understanding", images="both")
    with pytest.raises(UserError, match="template image_caption has no choice of images: leave images: in out"):
        recipe("understanding", "image_caption", images="in")
    with pytest.raises(UserError, match="images: Input should be 'in', 'out' or 'both', got 'inside'"):
        recipe("understanding", images="inside")
    assert plain.digests().keys() == {"recipe", "a"}
    assert plain.digests()["recipe"] != looked_at.digests()["recipe"], "what is written down is digested"


def test_without_a_recipe_a_placeholder_tells_it_from_text() -> None:
    assert template_for(record()).name == "interleaved"
    assert template_for(Record("k", {"text": "plain"})).name == "text"
    template = get_template("interleaved")
    assert not template.reads_codes and template.with_images("out").reads_codes


def test_previews_are_asked_for_as_bare_texts() -> None:
    assert text_before_image(get_template("interleaved").with_images("both"), "a moose") == "a moose"
