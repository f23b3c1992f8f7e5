"""Records to documents, and prompts to token ids. Text becomes tokens only here.

    Record --template--> segments --tokenizer--> pieces --fit into a row--> pieces --pixels--> Document

`Encoder.encode` follows this line from left to right. Images are decoded last, when the length is known to fit.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from janus_train.config import EditingDropoutConfig
from janus_train.data.images import generation_pixels, understanding_pixels
from janus_train.data.prompt_format import (
    OWN_STYLE,
    Message,
    PromptStyle,
    chat_prompt,
    generation_prompt,
    split_system,
    system_prefix,
)
from janus_train.data.special_tokens import ASSISTANT, PLACEHOLDER, USER, SpecialTokens, speakers
from janus_train.data.templates import Template
from janus_train.data.templates.images import with_first_sentence
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
    TooLong,
)
from janus_train.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CACHE_MAX_CHARS, CACHE_MAX_ENTRIES = 80, 10_000
"""The tokens of short texts are cached: of texts up to this many characters, and up to this many texts."""
MAX_ROWS_OF_TEXT, CHARACTERS_PER_TOKEN = 64, 8
"""A document that may be cut into pieces is refused if it is longer than this many full rows, its text at this many characters
per token (twice as many as English has): tokenizing needs some hundred times a text's size in memory."""


@dataclass(frozen=True)
class _Tokens:
    """A run of texts with the same loss, tokenized as one string: tokens may span segments, as they do at inference."""

    ids: list[int]
    loss: bool


_Piece = _Tokens | Segment
"""Tokens, or the segment of an image."""
_Dropped = Literal["text", "images", "both"]
"""What of a prompt becomes pad tokens, for guidance: its words, its images with the tokens around them, or all of it."""


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
        """An upper bound in characters: byte-level tokenizers write a byte as a character."""
        self._ids_of_text: dict[str, list[int]] = {}  # the templates' own words, and names, repeat all the time

    def ids(self, text: str) -> list[int]:
        """Tokenize a text; `USER` and `ASSISTANT` in it become the model's own speakers."""
        ids = self._ids_of_text.get(text)
        if ids is None:
            user, assistant = self.speakers
            text_with_speakers = text if user == USER else text.replace(USER, user).replace(ASSISTANT, assistant)
            # not through transformers' wrapper, which takes longer than the tokenizing itself
            ids = self.tokenizer.backend_tokenizer.encode(text_with_speakers, add_special_tokens=False).ids
            if len(text) <= CACHE_MAX_CHARS and len(self._ids_of_text) < CACHE_MAX_ENTRIES:
                self._ids_of_text[text] = ids
        return list(ids)

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
        always_system: bool = False,
        editing_dropout: EditingDropoutConfig | None = None,
    ) -> Document:
        """Encode a record as a document of at most ``row_tokens`` (None: any length), unless it may be cut.

        ``first_sentence``: probability that a caption keeps only its first sentence (Janus: 25 %), where the template
        allows it. ``guidance_dropout``: probability that the prompt of an image to generate becomes pad tokens, including
        the images in it (Janus: 10 %), where the template allows that. ``editing_dropout``: the probabilities that count
        instead for an image to edit, if the template is for that (None: 0). ``always_system``: see `PromptStyle`. Raises
        `BadSample` with the reason why the record cannot be trained on.
        """
        chance, cut_caption = rng.random(), rng.random() < first_sentence
        segments = template.build(record)
        if cut_caption and template.can_cut_caption:
            segments = with_first_sentence(segments)
        takes_system = template.takes_system_prompt and (always_system or kind == "understanding")
        if takes_system and self.system_prompt:
            segments = [Segment("text", system_prefix(self.system_prompt)), *segments]
        pieces = self._pieces(segments, template, row_tokens)
        if template.can_drop_prompt and _is_prompt_and_image(pieces):
            if template.can_drop_parts and any(not isinstance(p, _Tokens) and p.role == "image_in" for p in pieces):
                dropped = _dropped(editing_dropout, chance)
            else:
                dropped = "both" if chance < guidance_dropout else None
            pieces = self._with_pads(pieces, dropped)
        document = self._document(pieces, kind, reference, can_cut=template.can_cut)
        numbers = {id(image): number for number, image in enumerate(record.images)}
        images = (piece.image for piece in pieces if isinstance(piece, Segment))
        document.record_images = [numbers.get(id(image), -1) for image in images]
        return document

    def _with_pads(self, pieces: Sequence[_Piece], dropped: _Dropped | None) -> list[_Piece]:
        """The pieces with pad tokens in place of what is dropped before the image to generate. The length stays."""
        roles = ["text" if isinstance(piece, _Tokens) else piece.role for piece in pieces]
        is_dropped = {"text": dropped in ("text", "both"), "image": dropped in ("images", "both")}
        first_image = roles.index("image_out")
        return [
            _Tokens([self.special.pad] * self._length([piece]), loss=False)
            if place < first_image and is_dropped["text" if role == "text" else "image"]
            else piece
            for place, (piece, role) in enumerate(zip(pieces, roles, strict=True))
        ]

    def _pieces(self, segments: Sequence[Segment], template: Template, row_tokens: int | None) -> list[_Piece]:
        """Tokenize the segments that fit into a row. Raises `BadSample` if they cannot be made to fit."""
        runs = list(_merge(segments))
        if row_tokens is not None and template.can_drop_turns:
            return self._whole_turns(runs, row_tokens)
        if row_tokens is not None:
            self._check_characters(sum(len(run.text) for run in runs), row_tokens, can_cut=template.can_cut)
            if template.can_cut:
                self._check_images(sum(run.role != "text" for run in runs), row_tokens)
        pieces = [self._tokenize(run) for run in runs]
        length = 1 + self._length(pieces)  # BOS is a token too
        if row_tokens is not None and length > row_tokens and not template.can_cut:
            raise TooLong(f"{length} tokens do not fit a row of {row_tokens}")
        return pieces

    def _check_characters(self, characters: int, row_tokens: int, *, can_cut: bool) -> None:
        """Raises `BadSample` for a text that is too long to be worth tokenizing."""
        limit = self._max_characters(row_tokens)
        if characters > limit and not can_cut:
            raise TooLong(f"{characters:,} characters do not fit a row of {row_tokens} tokens")
        limit = MAX_ROWS_OF_TEXT * row_tokens * CHARACTERS_PER_TOKEN
        if characters > limit and can_cut:
            raise BadSample(
                f"{characters:,} characters of text, at most {limit:,} are taken ({MAX_ROWS_OF_TEXT} rows of {row_tokens} "
                "tokens): split it into documents"
            )

    def _check_images(self, num_images: int, row_tokens: int) -> None:
        """Raises `BadSample` for images of a document that no cut makes fit."""
        num_tokens = self.tokens_per_image + 2
        if num_images and num_tokens > row_tokens:
            raise TooLong(
                f"an image of {num_tokens} tokens does not fit a row of {row_tokens}, and images are never cut"
            )
        limit = MAX_ROWS_OF_TEXT * (row_tokens // num_tokens)
        if num_images > limit:
            raise BadSample(
                f"{num_images:,} images, at most {limit:,} are taken ({MAX_ROWS_OF_TEXT} rows of {row_tokens} tokens): "
                "split it into documents"
            )

    def _max_characters(self, row_tokens: int) -> int:
        """The largest number of characters that could fit into a row."""
        return row_tokens * self._longest_token

    def _whole_turns(self, runs: Sequence[Segment], row_tokens: int) -> list[_Piece]:
        """The turns of a conversation that fit into a row, up to the end of an answer. Raises `BadSample` if none fits.

        An answer ends with EOS. EOS is one token, so the tokens before it do not depend on what follows: the text is
        tokenized only once and only as far as a row reaches.
        """
        pieces: list[_Piece] = []
        length, turn_end = (
            1,
            (0, 0),
        )  # BOS; the piece in which the last answer that fits ends, and after how many tokens
        for run in runs:
            if len(run.text) > self._max_characters(row_tokens):
                break
            piece = self._tokenize(run)
            pieces.append(piece)
            if isinstance(piece, _Tokens):
                fitting_ids = piece.ids[: row_tokens - length]
                if self.special.eos in fitting_ids:
                    turn_end = (len(pieces), len(fitting_ids) - fitting_ids[::-1].index(self.special.eos))
            length += self._length([piece])
            if length > row_tokens:
                break
        else:
            return pieces
        if turn_end == (0, 0):
            raise TooLong(f"the first question and answer do not fit a row of {row_tokens} tokens")
        *pieces_before, last_piece = pieces[: turn_end[0]]
        assert isinstance(last_piece, _Tokens)
        pieces = [*pieces_before, _Tokens(last_piece.ids[: turn_end[1]], last_piece.loss)]
        if not any(piece.loss if isinstance(piece, _Tokens) else _is_image_out(piece) for piece in pieces):
            raise BadSample(f"no answer with a loss fits a row of {row_tokens} tokens")
        return pieces

    def _tokenize(self, run: Segment) -> _Piece:
        return _Tokens(self.ids(run.text), run.loss) if run.role == "text" else run

    def _length(self, pieces: Sequence[_Piece]) -> int:
        """The number of tokens of the pieces."""
        return sum(len(piece.ids) if isinstance(piece, _Tokens) else self.tokens_per_image + 2 for piece in pieces)

    def _document(self, pieces: Sequence[_Piece], kind: Kind, reference: Reference, *, can_cut: bool) -> Document:
        """The document of BOS and the pieces; see `Document` for the meaning of each array."""
        P, special = self.tokens_per_image, self.special
        runs: list[Sequence[int] | np.ndarray] = [[special.bos]]  # runs of ids that share modality and loss
        modality, losses = [TEXT], [False]
        length, image_out_starts = 1, []
        understanding_images: list[np.ndarray] = []
        generation_images: list[np.ndarray | None] = []
        codes: list[np.ndarray | None] = []
        codes_have_loss: list[bool] = []
        for piece in pieces:
            if isinstance(piece, _Tokens):
                runs.append(piece.ids)
                modality.append(TEXT)
                losses.append(piece.loss)
                length += len(piece.ids)
                continue
            image_start, length = length, length + P + 2
            runs += [[special.begin_of_image], np.full(P, special.placeholder), [special.end_of_image]]
            modality += [TEXT, IMAGE_FEATURE if piece.role == "image_in" else IMAGE_CODE, TEXT]
            losses += [False] * 3
            if piece.role == "image_in":
                assert piece.image is not None
                understanding_images.append(
                    understanding_pixels(piece.image, self.image_size, reduced=self.reduced_jpeg)
                )
                continue
            if piece.codes is None:
                # the generation encoder sees the cropped image, never the one padded with grey
                assert piece.image is not None
                generation_images.append(generation_pixels(piece.image, self.generation_image_size))
            else:
                if piece.codes.shape != (P,):
                    raise BadSample(f"cached codes have shape {piece.codes.shape}, the model takes ({P},)")
                generation_images.append(None)
            codes.append(piece.codes)
            codes_have_loss.append(_is_image_out(piece))
            if _is_image_out(piece):
                # the hidden state at <begin_of_image> predicts code 0, that at code i predicts code i+1
                image_out_starts.append(image_start)
        ids = np.concatenate([np.asarray(run, np.int64) for run in runs])
        lengths = [len(run) for run in runs]
        labels = np.full(length, IGNORE, np.int64)
        loss_positions = np.flatnonzero(np.repeat(losses, lengths))
        labels[loss_positions - 1] = ids[loss_positions]  # BOS has no loss, so no index is -1
        targets = np.zeros(length, bool)
        for image_start in image_out_starts:
            targets[image_start : image_start + P] = True
        return Document(
            reference=reference,
            kind=kind,
            input_ids=ids,
            labels=labels,
            modality=np.repeat(np.asarray(modality, np.uint8), lengths),
            image_targets=targets,
            understanding_pixels=understanding_images,
            generation_pixels=generation_images,
            codes=codes,
            codes_have_loss=codes_have_loss,
            can_cut=can_cut,
        )

    def encode_without_chance(
        self,
        record: Record,
        template: Template,
        kind: Kind,
        reference: Reference,
        row_tokens: int | None = None,
        always_system: bool = False,
    ) -> Document:
        """`encode` with every prompt and every caption whole."""
        return self.encode(
            record,
            template,
            kind,
            reference,
            row_tokens=row_tokens,
            rng=random.Random(0),
            guidance_dropout=0.0,
            first_sentence=0.0,
            always_system=always_system,
        )

    # -- inference: the same strings, up to where the model continues

    def generation_prompt_ids(self, prompt: str, num_images: int = 0, style: PromptStyle = OWN_STYLE) -> list[int]:
        """BOS, the prompt with places for its images, ``<begin_of_image>``: the last hidden state predicts code 0.

        The model's own system prompt is for answers and does not stand here; that of ``style`` does.
        """
        text = generation_prompt(prompt, style.system or "", style.user or USER, style.assistant or ASSISTANT)
        return self.image_prompt_ids(text, num_images)

    def image_prompt_ids(self, text: str, num_images: int = 0) -> list[int]:
        """BOS, the text as it stands, ``<begin_of_image>``: for models of stages 1 and 2, which learn from bare captions."""
        return [*self._prompt_ids(text, num_images), self.special.begin_of_image]

    def chat_prompt_ids(
        self, messages: Sequence[Message], num_images: int, style: PromptStyle = OWN_STYLE
    ) -> list[int]:
        """BOS and the official chat prompt with places for its images; the model's answer comes next.

        Its system prompt is the conversation's own system message, else that of ``style``, else the model's. Raises
        `UserError` as `split_system` and `_prompt_ids` do.
        """
        system, turns = split_system(messages)
        if system is None:
            system = style.system
        if system is None:
            takes_own = style.always_system or any(PLACEHOLDER in turn["content"] for turn in turns)
            system = self.system_prompt if takes_own else ""
        prompt = chat_prompt(turns, system, style.user or USER, style.assistant or ASSISTANT)
        return self._prompt_ids(prompt, num_images)

    def _prompt_ids(self, prompt: str, num_images: int) -> list[int]:
        """BOS and the prompt; each placeholder is repeated P times between the tokens that begin and end an image.

        Raises `UserError` for another number of placeholders, and, before anything is tokenized, for a prompt that cannot fit
        the model's context whatever its tokens are.
        """
        if self.context is not None and len(prompt) > self._max_characters(self.context):
            raise UserError(f"a prompt of {len(prompt):,} characters does not fit the context of {self.context} tokens")
        first_text, *later_texts = prompt.split(PLACEHOLDER)
        if len(later_texts) != num_images:
            raise UserError(f"the prompt has {len(later_texts)} {PLACEHOLDER} but {num_images} images are given")
        special, image = self.special, [self.special.placeholder] * self.tokens_per_image
        ids = [special.bos, *self.ids(first_text)]
        for text in later_texts:
            ids += [special.begin_of_image, *image, special.end_of_image, *self.ids(text)]
        return ids


def _merge(segments: Sequence[Segment]) -> Iterator[Segment]:
    """Merge neighbouring texts with the same loss."""
    run: list[Segment] = []
    for segment in segments:
        if run and not (segment.role == run[0].role == "text" and segment.loss == run[0].loss):
            yield _join(run)
            run = []
        run.append(segment)
    if run:
        yield _join(run)


def _join(run: Sequence[Segment]) -> Segment:
    """Join text segments into one; a single segment stays as it is."""
    return run[0] if len(run) == 1 else Segment("text", "".join(segment.text for segment in run), run[0].loss)


def _dropped(dropout: EditingDropoutConfig | None, chance: float) -> _Dropped | None:
    """What an editing sample loses. ``chance``: a random number in [0, 1)."""
    if dropout is None:
        return None
    limit = 0.0
    parts: tuple[tuple[_Dropped, float], ...] = (
        ("both", dropout.both),
        ("text", dropout.text),
        ("images", dropout.images),
    )
    for part, share in parts:
        limit += share
        if chance < limit:
            return part
    return None


def _is_image_out(segment: Segment) -> bool:
    return segment.role == "image_out"


def _is_prompt_and_image(pieces: Sequence[_Piece]) -> bool:
    """Whether the sample is a prompt (with or without images) and the image generated from it, as guidance drop-out needs.

    Turns without loss are part of the prompt, and so are the images generated in them.
    """
    roles = ["text" if isinstance(piece, _Tokens) else piece.role for piece in pieces]
    if any(piece.loss for piece in pieces) or "image_out" not in roles:
        return False
    prompt_roles, later_roles = roles[: roles.index("image_out")], roles[roles.index("image_out") + 1 :]
    return bool(prompt_roles) and set(prompt_roles) <= {"text", "image_in", "codes_in"} and set(later_roles) <= {"text"}
