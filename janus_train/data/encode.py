"""Records to documents: the only place where text becomes tokens.

    Record --template--> segments --tokenizer--> pieces --fit into a row--> pieces --pixels--> Document

`Encoder.encode` is this line, from top to bottom. What an image shows is decoded at its end, once the length is settled.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from janus_train.data.images import generation_pixels, understanding_pixels
from janus_train.data.prompt_format import chat_prompt, generation_prompt, system_prefix
from janus_train.data.special_tokens import ASSISTANT, PLACEHOLDER, USER, SpecialTokens, speakers
from janus_train.data.templates import Template, with_first_sentence
from janus_train.data.types import (
    IGNORE,
    IMAGE_CODE,
    IMAGE_FEATURE,
    TEXT,
    BadSample,
    Document,
    Kind,
    Record,
    Reference,
    Segment,
)
from janus_train.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CACHE_MAX_CHARS, CACHE_MAX_ENTRIES = 80, 10_000
"""Texts of up to so many characters, and so many of them, are tokenized once."""
MAX_ROWS_OF_TEXT, CHARACTERS_PER_TOKEN = 64, 8
"""A text that may be cut into pieces is taken up to so many full rows, of so many characters a token (twice what English
has): tokenizing needs some hundred times a text's size in memory."""


@dataclass(frozen=True)
class _Tokens:
    """A run of texts with the same loss, tokenized as one string: tokens may span segments, as they do at inference."""

    ids: list[int]
    loss: bool


_Piece = _Tokens | Segment
"""Tokens, or the segment of an image."""


class Encoder:
    """Turns records into documents, and prompts into the ids that inference starts from."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        tokens_per_image: int,
        image_size: int,
        system_prompt: str,
        reduced_jpeg: bool = False,
        generation_image_size: int | None = None,
        context: int | None = None,
    ):
        """``context``: tokens of the model's context, beyond which no prompt of inference is tokenized; None: any length."""
        self.reduced_jpeg = reduced_jpeg
        self.tokenizer = tokenizer
        self.special = SpecialTokens.of(tokenizer)
        self.speakers = speakers(tokenizer)
        self.tokens_per_image = tokens_per_image
        self.image_size = image_size
        self.generation_image_size = generation_image_size or image_size
        self.system_prompt = system_prompt
        self.context = context
        self._longest_token = max(map(len, tokenizer.get_vocab()))
        """In characters, or more: byte-level tokenizers write a byte as a character."""
        self._known: dict[str, list[int]] = {}  # the templates' own words, and names, come again and again

    def ids(self, text: str) -> list[int]:
        """The text's tokens; `USER` and `ASSISTANT` in it become the model's own speakers."""
        found = self._known.get(text)
        if found is None:
            user, assistant = self.speakers
            said = text if user == USER else text.replace(USER, user).replace(ASSISTANT, assistant)
            # the tokenizer behind transformers' wrapper, which takes longer than the tokenizing itself
            found = self.tokenizer.backend_tokenizer.encode(said, add_special_tokens=False).ids
            if len(text) <= CACHE_MAX_CHARS and len(self._known) < CACHE_MAX_ENTRIES:
                self._known[text] = found
        return list(found)

    # -- training

    def encode(
        self,
        record: Record,
        template: Template,
        kind: Kind,
        reference: Reference,
        *,
        row_tokens: int | None,
        rng: random.Random,
        guidance_dropout: float,
        first_sentence: float,
    ) -> Document:
        """The record's document, of at most ``row_tokens`` (None: any length) unless its text may be cut.

        ``first_sentence``: probability that a caption keeps only its first sentence (Janus: 25 %), where the template
        allows it. ``guidance_dropout``: probability that the prompt of an image to draw becomes pad tokens (Janus: 10 %),
        the images in it too. Raises `BadSample` with the reason why the record cannot be trained on.
        """
        drop_prompt, cut_caption = rng.random() < guidance_dropout, rng.random() < first_sentence
        segments = template.build(record)
        if cut_caption and template.can_cut_caption:
            segments = with_first_sentence(segments)
        if template.takes_system_prompt and kind == "understanding" and self.system_prompt:
            segments = [Segment("text", system_prefix(self.system_prompt)), *segments]
        pieces = self._pieces(segments, template, row_tokens)
        if drop_prompt and _is_prompt_and_image(pieces):
            first = next(place for place, piece in enumerate(pieces) if isinstance(piece, Segment) and _is_drawn(piece))
            pads = [self.special.pad] * self._length(pieces[:first])
            pieces = [_Tokens(pads, loss=False), *pieces[first:]]
        return self._document(pieces, kind, reference, can_cut=template.can_cut_text)

    def _pieces(self, segments: Sequence[Segment], template: Template, row_tokens: int | None) -> list[_Piece]:
        """The segments, tokenized, that fit into a row. Raises `BadSample` if they cannot be made to fit."""
        runs = list(_merge(segments))
        if row_tokens is not None and template.can_drop_turns:
            return self._whole_turns(runs, row_tokens)
        if row_tokens is not None:
            self._check_characters(sum(len(run.text) for run in runs), row_tokens, can_cut=template.can_cut_text)
        pieces = [self._tokenized(run) for run in runs]
        length = 1 + self._length(pieces)  # BOS is a token too
        if row_tokens is not None and length > row_tokens and not template.can_cut_text:
            raise BadSample(f"{length} tokens do not fit a row of {row_tokens}")
        return pieces

    def _check_characters(self, characters: int, row_tokens: int, *, can_cut: bool) -> None:
        """Raises `BadSample` for a text that is too long to be worth tokenizing."""
        most = self._most_characters(row_tokens)
        if characters > most and not can_cut:
            raise BadSample(f"{characters:,} characters do not fit a row of {row_tokens} tokens")
        most = MAX_ROWS_OF_TEXT * row_tokens * CHARACTERS_PER_TOKEN
        if characters > most and can_cut:
            raise BadSample(
                f"{characters:,} characters of text, at most {most:,} are taken ({MAX_ROWS_OF_TEXT} rows of {row_tokens} "
                "tokens): split it into documents"
            )

    def _most_characters(self, row_tokens: int) -> int:
        """More of them make more tokens than a row holds, whatever they are."""
        return row_tokens * self._longest_token

    def _whole_turns(self, runs: Sequence[Segment], row_tokens: int) -> list[_Piece]:
        """All of a conversation that fits into a row, to the end of one of its answers. Raises `BadSample` if none ends there.

        An answer ends with EOS. That is a token of its own, so what stands before it has the same tokens whatever follows:
        the text is tokenized once, as far as a row goes.
        """
        pieces: list[_Piece] = []
        length, turn_end = (
            1,
            (0, 0),
        )  # BOS; the piece in which the last answer that fits ends, and after how many tokens
        for run in runs:
            if len(run.text) > self._most_characters(row_tokens):
                break
            piece = self._tokenized(run)
            pieces.append(piece)
            if isinstance(piece, _Tokens):
                fitting = piece.ids[: row_tokens - length]
                if self.special.eos in fitting:
                    turn_end = (len(pieces), len(fitting) - fitting[::-1].index(self.special.eos))
            length += self._length([piece])
            if length > row_tokens:
                break
        else:
            return pieces
        if turn_end == (0, 0):
            raise BadSample(f"the first question and answer do not fit a row of {row_tokens} tokens")
        *before, last = pieces[: turn_end[0]]
        assert isinstance(last, _Tokens)
        return [*before, _Tokens(last.ids[: turn_end[1]], last.loss)]

    def _tokenized(self, run: Segment) -> _Piece:
        return _Tokens(self.ids(run.text), run.loss) if run.role == "text" else run

    def _length(self, pieces: Sequence[_Piece]) -> int:
        """Their number of tokens."""
        return sum(len(piece.ids) if isinstance(piece, _Tokens) else self.tokens_per_image + 2 for piece in pieces)

    def _document(self, pieces: Sequence[_Piece], kind: Kind, reference: Reference, *, can_cut: bool) -> Document:
        """BOS, then the pieces; see `Document` for what each array means."""
        P, special = self.tokens_per_image, self.special
        runs: list[Sequence[int] | np.ndarray] = [[special.bos]]  # of ids that have modality and loss in common
        modality, losses = [TEXT], [False]
        length, drawn_at = 1, []
        understanding: list[np.ndarray] = []
        generation: list[np.ndarray | None] = []
        codes: list[np.ndarray | None] = []
        codes_have_loss: list[bool] = []
        for piece in pieces:
            if isinstance(piece, _Tokens):
                runs.append(piece.ids)
                modality.append(TEXT)
                losses.append(piece.loss)
                length += len(piece.ids)
                continue
            begin, length = length, length + P + 2
            runs += [[special.begin_of_image], np.full(P, special.placeholder), [special.end_of_image]]
            modality += [TEXT, IMAGE_FEATURE if piece.role == "image_in" else IMAGE_CODE, TEXT]
            losses += [False] * 3
            if piece.role == "image_in":
                assert piece.image is not None
                understanding.append(understanding_pixels(piece.image, self.image_size, reduced=self.reduced_jpeg))
                continue
            if piece.codes is None:
                # the generation encoder sees the cropped image, never the one padded with grey
                assert piece.image is not None
                generation.append(generation_pixels(piece.image, self.generation_image_size))
            else:
                if piece.codes.shape != (P,):
                    raise BadSample(f"cached codes have shape {piece.codes.shape}, the model takes ({P},)")
                generation.append(None)
            codes.append(piece.codes)
            codes_have_loss.append(_is_drawn(piece))
            if _is_drawn(piece):
                # the state at <begin_of_image> predicts code 0, the one at code i predicts code i+1
                drawn_at.append(begin)
        ids = np.concatenate([np.asarray(run, np.int64) for run in runs])
        lengths = [len(run) for run in runs]
        labels = np.full(length, IGNORE, np.int64)
        with_loss = np.flatnonzero(np.repeat(losses, lengths))
        labels[with_loss - 1] = ids[with_loss]  # BOS has no loss, so no index is -1
        targets = np.zeros(length, bool)
        for begin in drawn_at:
            targets[begin : begin + P] = True
        return Document(
            reference=reference,
            kind=kind,
            input_ids=ids,
            labels=labels,
            modality=np.repeat(np.asarray(modality, np.uint8), lengths),
            image_targets=targets,
            understanding_pixels=understanding,
            generation_pixels=generation,
            codes=codes,
            codes_have_loss=codes_have_loss,
            can_cut=can_cut,
        )

    # -- inference: the same strings, up to where the model goes on

    def generation_prompt_ids(self, prompt: str, num_images: int = 0) -> list[int]:
        """BOS, prompt with its images' places, ``<begin_of_image>``: the last hidden state predicts code 0."""
        return [*self._prompt_ids(generation_prompt(prompt), num_images), self.special.begin_of_image]

    def chat_prompt_ids(self, messages: list[dict[str, str]], num_images: int) -> list[int]:
        """BOS and the official chat prompt with its images' places; the model's answer comes next."""
        looks = any(PLACEHOLDER in message["content"] for message in messages)
        return self._prompt_ids(chat_prompt(messages, self.system_prompt if looks else ""), num_images)

    def _prompt_ids(self, prompt: str, num_images: int) -> list[int]:
        """BOS and the prompt, each placeholder in it grown to P between an image's marks.

        Raises `UserError` for another number of placeholders, and, before anything is tokenized, for a prompt that cannot fit
        the model's context whatever its tokens are.
        """
        if self.context is not None and len(prompt) > self._most_characters(self.context):
            raise UserError(f"a prompt of {len(prompt):,} characters does not fit the context of {self.context} tokens")
        first, *rest = prompt.split(PLACEHOLDER)
        if len(rest) != num_images:
            raise UserError(f"the prompt has {len(rest)} {PLACEHOLDER} but {num_images} images are given")
        special, image = self.special, [self.special.placeholder] * self.tokens_per_image
        ids = [special.bos, *self.ids(first)]
        for piece in rest:
            ids += [special.begin_of_image, *image, special.end_of_image, *self.ids(piece)]
        return ids


def _merge(segments: Sequence[Segment]) -> Iterator[Segment]:
    """Neighbouring texts with the same loss become one."""
    run: list[Segment] = []
    for segment in segments:
        if run and not (segment.role == run[0].role == "text" and segment.loss == run[0].loss):
            yield _joined(run)
            run = []
        run.append(segment)
    if run:
        yield _joined(run)


def _joined(run: Sequence[Segment]) -> Segment:
    """One segment of texts; a run of one is what it is."""
    return run[0] if len(run) == 1 else Segment("text", "".join(segment.text for segment in run), run[0].loss)


def _is_drawn(segment: Segment) -> bool:
    return segment.role == "image_out"


def _is_prompt_and_image(pieces: Sequence[_Piece]) -> bool:
    """One prompt, of words or of words and images, and the image drawn from it: what guidance drop-out is for."""
    roles = ["text" if isinstance(piece, _Tokens) else piece.role for piece in pieces]
    if any(piece.loss for piece in pieces) or "image_out" not in roles:
        return False
    prompt, rest = roles[: roles.index("image_out")], roles[roles.index("image_out") + 1 :]
    return bool(prompt) and set(prompt) <= {"text", "image_in"} and set(rest) <= {"text"}
