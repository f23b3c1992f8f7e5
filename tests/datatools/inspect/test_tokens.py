"""Documents in pieces: no token is lost, and what is marked is what the model learns to write."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from janus_train.data.encode import Encoder
from janus_train.data.special_tokens import ASSISTANT, EOS, PAD, PLACEHOLDER, USER
from janus_train.data.types import Document, Record
from janus_train.datatools.inspect.tokens import ImagePiece, PieceReader, TextPiece, image_runs, loss_runs
from tests.helpers import document_of, plain_image


def document(encoder: Encoder, template: str, kind: str, record: Record, drop: float = 0.0) -> Document:
    return document_of(encoder, record, template, kind, dropout=drop)  # type: ignore[arg-type]


def text_with_loss(pieces: list[TextPiece | ImagePiece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, TextPiece) and piece.has_loss)


def test_a_dialogue_with_a_image_to_see_and_one_to_draw(encoder: Encoder) -> None:
    turns = [
        {"role": USER, "content": f"{PLACEHOLDER}\nWhat is it?"},
        {"role": ASSISTANT, "content": "A red apple."},
        {"role": USER, "content": "Draw it in 苹果 green."},
        {"role": ASSISTANT, "content": PLACEHOLDER},
    ]
    record = Record("k", {"conversations": turns}, [plain_image(), plain_image((0, 200, 0))])
    encoded_document = document(encoder, "conversation", "understanding", record)
    pieces = list(PieceReader(encoder.tokenizer).pieces(encoded_document))
    assert text_with_loss(pieces) == " A red apple." + EOS
    understanding_piece, generation_piece = (piece for piece in pieces if isinstance(piece, ImagePiece))
    assert (
        understanding_piece.role,
        understanding_piece.number,
        understanding_piece.tokens,
        understanding_piece.losses,
    ) == ("in", 0, 64, 0)
    assert (generation_piece.role, generation_piece.number, generation_piece.tokens, generation_piece.losses) == (
        "out",
        1,
        64,
        64,
    )
    assert understanding_piece.pixels is not None and understanding_piece.pixels.shape == (64, 64, 3)
    starts = [piece.text for piece in pieces if isinstance(piece, TextPiece) and piece.image_loss]
    assert starts == ["<begin_of_image>"]
    assert image_runs(encoded_document)[1][1] - image_runs(encoded_document)[1][0] == 64
    num_covered = sum(end - start for start, end in loss_runs(encoded_document))
    assert num_covered == int((encoded_document.labels != -100).sum() + encoded_document.image_targets.sum())


def test_turns_without_loss_are_shown_without_it(encoder: Encoder) -> None:
    contents = ("Draw it.", f"Here: {PLACEHOLDER}", "And in words?", "A red apple.")
    turns = [{"role": (USER, ASSISTANT)[n % 2], "content": content} for n, content in enumerate(contents)]
    turns[1]["loss"] = False
    record = Record("k", {"conversations": turns}, [plain_image()])
    pieces = list(PieceReader(encoder.tokenizer).pieces(document(encoder, "conversation", "understanding", record)))
    assert text_with_loss(pieces) == " A red apple." + EOS
    [image] = [piece for piece in pieces if isinstance(piece, ImagePiece)]
    assert (image.role, image.losses) == ("codes_in", 0)


def test_dropped_text_is_one_piece_of_pads(encoder: Encoder) -> None:
    record = Record("k", {"caption": "A red apple on the left."}, [plain_image()])
    encoded_document = document(encoder, "text_to_image", "generation", record, drop=1.0)
    pads = [
        p for p in PieceReader(encoder.tokenizer).pieces(encoded_document) if isinstance(p, TextPiece) and p.text == PAD
    ]
    assert len(pads) == 1 and len(pads[0].ids) == len(encoder.ids("A red apple on the left."))


def test_cached_codes_have_no_pixels(encoder: Encoder) -> None:
    record = Record("k", {"caption": "x"}, [plain_image()], [np.arange(64)])
    encoded_document = document(encoder, "text_to_image", "generation", record)
    [generation_piece] = [
        p for p in PieceReader(encoder.tokenizer).pieces(encoded_document) if isinstance(p, ImagePiece)
    ]
    assert generation_piece.pixels is None and generation_piece.losses == 64


def test_a_cut_text_shows_the_target_beyond_its_end(encoder: Encoder) -> None:
    encoded_document = document(encoder, "text", "text", Record("k", {"text": "one two three four five"}))
    first_half, second_half = encoded_document.piece(0, 5), encoded_document.piece(5, len(encoded_document))
    reader = PieceReader(encoder.tokenizer)
    pieces = list(reader.pieces(first_half))
    last_piece = pieces[-1]
    assert (
        isinstance(last_piece, TextPiece)
        and last_piece.beyond
        and last_piece.ids == (int(encoded_document.input_ids[5]),)
    )
    assert not any(isinstance(piece, TextPiece) and piece.beyond for piece in reader.pieces(second_half))
    first_of_second = next(iter(reader.pieces(second_half)))
    assert isinstance(first_of_second, TextPiece) and not first_of_second.has_loss, "its loss is in the piece before"


@settings(max_examples=60, deadline=None)
@given(words=st.text(min_size=1).filter(lambda text: text.strip() and "<" not in text))
def test_every_token_is_shown_once(encoder: Encoder, words: str) -> None:
    encoded_document = document(encoder, "text", "text", Record("k", {"text": words}))
    pieces = [
        piece for piece in PieceReader(encoder.tokenizer).pieces(encoded_document) if isinstance(piece, TextPiece)
    ]
    assert [i for piece in pieces for i in piece.ids] == encoded_document.input_ids.tolist()
    assert text_with_loss(pieces) == encoder.tokenizer.backend_tokenizer.decode(
        encoded_document.input_ids[1:].tolist(), skip_special_tokens=False
    )
    assert [piece.has_loss for piece in pieces] == [False] + [True] * (len(pieces) - 1)


@pytest.mark.parametrize("words", ["苹果是红色的。", "🙂🙃", "naïve — “quotes”"])
def test_characters_are_never_shown_in_halves(encoder: Encoder, words: str) -> None:
    encoded_document = document(encoder, "text", "text", Record("k", {"text": words}))
    pieces = [
        piece for piece in PieceReader(encoder.tokenizer).pieces(encoded_document) if isinstance(piece, TextPiece)
    ]
    assert all("\ufffd" not in piece.text for piece in pieces)
