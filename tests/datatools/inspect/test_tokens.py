"""Documents in pieces: no token is lost, and what is marked is what the model learns to write."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from janus_train.data.encode import Encoder
from janus_train.data.special_tokens import ASSISTANT, EOS, PAD, PLACEHOLDER, USER
from janus_train.data.types import Document, Record
from janus_train.datatools.inspect.tokens import Image, Reader, Text, image_runs, loss_runs
from tests.helpers import document_of, plain_image


def document(encoder: Encoder, template: str, kind: str, record: Record, drop: float = 0.0) -> Document:
    return document_of(encoder, record, template, kind, dropout=drop)  # type: ignore[arg-type]


def learnt(pieces: list[Text | Image]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Text) and piece.learnt)


def test_a_dialogue_with_a_image_to_see_and_one_to_draw(encoder: Encoder) -> None:
    turns = [
        {"role": USER, "content": f"{PLACEHOLDER}\nWhat is it?"},
        {"role": ASSISTANT, "content": "A red apple."},
        {"role": USER, "content": "Draw it in 苹果 green."},
        {"role": ASSISTANT, "content": PLACEHOLDER},
    ]
    record = Record("k", {"conversations": turns}, [plain_image(), plain_image((0, 200, 0))])
    found = document(encoder, "conversation", "understanding", record)
    pieces = list(Reader(encoder.tokenizer).pieces(found))
    assert learnt(pieces) == " A red apple." + EOS
    seen, drawn = (piece for piece in pieces if isinstance(piece, Image))
    assert (seen.role, seen.number, seen.tokens, seen.losses) == ("in", 0, 64, 0)
    assert (drawn.role, drawn.number, drawn.tokens, drawn.losses) == ("out", 1, 64, 64)
    assert seen.pixels is not None and seen.pixels.shape == (64, 64, 3)
    starts = [piece.text for piece in pieces if isinstance(piece, Text) and piece.image_loss]
    assert starts == ["<begin_of_image>"]
    assert image_runs(found)[1][1] - image_runs(found)[1][0] == 64
    covered = sum(end - start for start, end in loss_runs(found))
    assert covered == int((found.labels != -100).sum() + found.image_targets.sum())


def test_dropped_text_is_one_piece_of_pads(encoder: Encoder) -> None:
    record = Record("k", {"caption": "A red apple on the left."}, [plain_image()])
    found = document(encoder, "text_to_image", "generation", record, drop=1.0)
    pads = [p for p in Reader(encoder.tokenizer).pieces(found) if isinstance(p, Text) and p.text == PAD]
    assert len(pads) == 1 and len(pads[0].ids) == len(encoder.ids("A red apple on the left."))


def test_cached_codes_have_no_pixels(encoder: Encoder) -> None:
    record = Record("k", {"caption": "x"}, [plain_image()], [np.arange(64)])
    found = document(encoder, "text_to_image", "generation", record)
    [drawn] = [p for p in Reader(encoder.tokenizer).pieces(found) if isinstance(p, Image)]
    assert drawn.pixels is None and drawn.losses == 64


def test_a_cut_text_shows_the_target_beyond_its_end(encoder: Encoder) -> None:
    found = document(encoder, "text", "text", Record("k", {"text": "one two three four five"}))
    first, second = found.piece(0, 5), found.piece(5, len(found))
    reader = Reader(encoder.tokenizer)
    pieces = list(reader.pieces(first))
    last = pieces[-1]
    assert isinstance(last, Text) and last.beyond and last.ids == (int(found.input_ids[5]),)
    assert not any(isinstance(piece, Text) and piece.beyond for piece in reader.pieces(second))
    beginning = next(iter(reader.pieces(second)))
    assert isinstance(beginning, Text) and not beginning.learnt, "its loss is in the piece before"


@settings(max_examples=60, deadline=None)
@given(words=st.text(min_size=1).filter(lambda text: text.strip() and "<" not in text))
def test_every_token_is_shown_once(encoder: Encoder, words: str) -> None:
    found = document(encoder, "text", "text", Record("k", {"text": words}))
    pieces = [piece for piece in Reader(encoder.tokenizer).pieces(found) if isinstance(piece, Text)]
    assert [i for piece in pieces for i in piece.ids] == found.input_ids.tolist()
    assert learnt(pieces) == encoder.tokenizer.backend_tokenizer.decode(
        found.input_ids[1:].tolist(), skip_special_tokens=False
    )
    assert [piece.learnt for piece in pieces] == [False] + [True] * (len(pieces) - 1)


@pytest.mark.parametrize("words", ["苹果是红色的。", "🙂🙃", "naïve — “quotes”"])
def test_characters_are_never_shown_in_halves(encoder: Encoder, words: str) -> None:
    found = document(encoder, "text", "text", Record("k", {"text": words}))
    pieces = [piece for piece in Reader(encoder.tokenizer).pieces(found) if isinstance(piece, Text)]
    assert all("\ufffd" not in piece.text for piece in pieces)
