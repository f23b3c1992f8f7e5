from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from janus_train.data.batch import collate
from janus_train.data.encode import BadSample, Encoder
from janus_train.data.prompt_format import OWN_STYLE, PromptStyle, chat_prompt, generation_prompt
from janus_train.data.special_tokens import ASSISTANT, BEGIN_OF_IMAGE, BOS, END_OF_IMAGE, EOS, PLACEHOLDER, USER
from janus_train.data.templates.images import first_sentence
from janus_train.data.types import IGNORE, IMAGE_CODE, IMAGE_FEATURE, TEXT, Document, Kind, Record, Row
from tests.helpers import document_of, plain_image

PROMPTS = json.loads((Path(__file__).parents[1] / "golden/official_prompts.json").read_text())
P = 64


def encode(
    encoder: Encoder,
    template: str,
    kind: Kind,
    fields: dict[str, Any],
    images: int = 0,
    dropout: float = 0.0,
    cut: float = 0.0,
) -> Document:
    record = Record("k", fields, [plain_image((40 * i, 0, 0)) for i in range(images)], [None] * images)
    return document_of(encoder, record, template, kind, dropout=dropout, cut=cut)


def text_of(encoder: Encoder, document: Document) -> str:
    return encoder.tokenizer.decode(document.input_ids.tolist()).replace(PLACEHOLDER * P, "[P]")


def trained_text(encoder: Encoder, document: Document) -> str:
    return encoder.tokenizer.decode(document.labels[document.labels != IGNORE].tolist())


IMAGE = f"{BEGIN_OF_IMAGE}[P]{END_OF_IMAGE}"


def test_generation_prompt_is_the_official_one(encoder: Encoder) -> None:
    [case] = [c for c in PROMPTS if c["name"] == "generation_prompt"]
    assert generation_prompt(case["messages"][0]["content"]) == case["prompt"]
    ids = encoder.generation_prompt_ids(case["messages"][0]["content"])
    assert (ids[0], ids[-1]) == (encoder.special.bos, encoder.special.begin_of_image)
    assert encoder.tokenizer.decode(ids) == BOS + case["prompt"] + BEGIN_OF_IMAGE  # no space before the image


@pytest.fixture(scope="module")
def words_encoder(tokenizer: PreTrainedTokenizerFast) -> Encoder:
    """As Janus-1.3B's: its tokenizer has no tokens for the speakers."""
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] not in (USER, ASSISTANT)]
    for token in (USER, ASSISTANT):  # the places stay taken
        values["model"]["vocab"][f"unused {token}"] = values["model"]["vocab"].pop(token)
    core = Tokenizer.from_str(json.dumps(values))
    return Encoder(PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BOS, eos_token=EOS), P, 64, "Look well.")


@pytest.mark.parametrize("case", PROMPTS, ids=lambda case: case["name"])
def test_janus_1_3b_has_words_for_its_speakers(words_encoder: Encoder, case: dict[str, Any]) -> None:
    """Its prompts say User and Assistant, in words."""
    decoded = words_encoder.tokenizer.decode(words_encoder.ids(chat_prompt(case["messages"], case["system"])))
    assert USER in case["prompt"]
    assert decoded == case["prompt"].replace(USER, "User").replace(ASSISTANT, "Assistant")


def test_janus_1_3b_trains_on_the_prompts_that_it_is_asked_with(words_encoder: Encoder) -> None:
    turns = [{"role": USER, "content": "What?"}, {"role": ASSISTANT, "content": "Two."}]
    document = encode(words_encoder, "conversation", "text", {"conversations": turns})
    assert text_of(words_encoder, document) == f"{BOS}User: What?\n\nAssistant: Two.{EOS}"
    asked = words_encoder.chat_prompt_ids([turns[0], {"role": "assistant", "content": ""}], 0)
    assert document.input_ids[: len(asked)].tolist() == asked
    drawn = words_encoder.generation_prompt_ids("a dog")
    assert words_encoder.tokenizer.decode(drawn) == f"{BOS}User: a dog\n\nAssistant:{BEGIN_OF_IMAGE}"


@pytest.mark.parametrize(
    ("template", "kind", "fields", "images", "whole", "trained"),
    [
        ("text", "text", {"text": "A dog."}, 0, f"A dog.{EOS}", f"A dog.{EOS}"),
        ("image_caption", "understanding", {"caption": "a dog"}, 1, f"{IMAGE}a dog{EOS}", f"a dog{EOS}"),
        (
            "image_describe",
            "understanding",
            {"caption": "a dog"},
            1,
            f"{IMAGE}Describe the image in detail.a dog{EOS}",
            f"a dog{EOS}",
        ),
        (
            "question_answer",
            "understanding",
            {"question": "What?", "answer": "Two."},
            1,
            f"{IMAGE}What?Two.{EOS}",
            f"Two.{EOS}",
        ),
        ("class_to_image", "generation", {"class_name": "dog"}, 1, f"dog{IMAGE}", ""),
        ("text_to_image", "generation", {"caption": "a dog. Big."}, 1, f"a dog. Big.{IMAGE}", ""),
    ],
)
def test_templates(
    encoder: Encoder, template: str, kind: Kind, fields: dict[str, Any], images: int, whole: str, trained: str
) -> None:
    document = encode(encoder, template, kind, fields, images)
    assert text_of(encoder, document) == BOS + whole
    assert trained_text(encoder, document) == trained


def conversation(*contents: str) -> dict[str, Any]:
    roles = (USER, ASSISTANT)
    return {"conversations": [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]}


def test_conversation_is_the_chat_template_with_loss_on_answers_alone(encoder: Encoder) -> None:
    fields = conversation(f"{PLACEHOLDER}\nWhat is this?", "A red apple.", "How many?", "One.")
    document = encode(encoder, "conversation", "understanding", fields, 1)
    [case] = [c for c in PROMPTS if c["name"] == "understanding_sft_two_turns"]
    official = chat_prompt(case["messages"], "")
    assert text_of(encoder, document) == BOS + official.replace(PLACEHOLDER, IMAGE)
    assert trained_text(encoder, document) == f" A red apple.{EOS} One.{EOS}"


def test_contents_lose_the_white_space_around_them_as_in_the_official_code(encoder: Encoder) -> None:
    tidy, untidy = (
        conversation(f"{before}{PLACEHOLDER}\nWhat is{after}", f"{before}A red  apple.{after}")
        for before, after in (("", ""), ("\n ", " \n\n"))
    )
    assert chat_prompt(untidy["conversations"], "") == chat_prompt(tidy["conversations"], "")
    ids = [encode(encoder, "conversation", "understanding", fields, 1).input_ids.tolist() for fields in (tidy, untidy)]
    assert ids[0] == ids[1]
    assert generation_prompt(" a dog\n") == generation_prompt("a dog")
    captions = [{"caption": "a dog"}, {"caption": " a dog\n"}]
    ids = [encode(encoder, "request_to_image", "generation", fields, 1).input_ids.tolist() for fields in captions]
    assert ids[0] == ids[1]


def test_a_caption_as_a_request_is_the_conversation_that_asks_for_the_image(encoder: Encoder) -> None:
    short = encode(encoder, "request_to_image", "generation", {"caption": "a red apple"}, 1)
    long = encode(encoder, "conversation", "generation", conversation("a red apple", PLACEHOLDER), 1)
    for name in ("input_ids", "labels", "modality", "image_targets"):
        assert getattr(short, name).tolist() == getattr(long, name).tolist(), name
    dropped = encode(encoder, "request_to_image", "generation", {"caption": "a red apple"}, 1, dropout=1.0)
    assert (dropped.input_ids == encoder.special.pad).sum() == len(encoder.generation_prompt_ids("a red apple")) - 2


def test_an_image_prompt_takes_the_roles_and_the_system_prompt_of_its_style(encoder: Encoder) -> None:
    strict = Encoder(encoder.tokenizer, P, 64, "Be kind.")
    for style, text in (
        (OWN_STYLE, f"{USER}: a dog\n\n{ASSISTANT}:"),
        (PromptStyle("User", "Assistant", ""), "User: a dog\n\nAssistant:"),
        (PromptStyle(system="Draw well."), f"Draw well.\n\n{USER}: a dog\n\n{ASSISTANT}:"),
    ):
        assert strict.generation_prompt_ids(" a dog\n", style=style) == strict.image_prompt_ids(text)


def test_system_prompt_comes_with_images_to_look_at_only(encoder: Encoder) -> None:
    strict = Encoder(encoder.tokenizer, P, 64, "Be kind.")
    looks = encode(strict, "conversation", "understanding", conversation(f"{PLACEHOLDER}What?", "A dog."), 1)
    assert text_of(strict, looks).startswith(f"{BOS}Be kind.\n\n{USER}: ")
    assert "Be kind" not in trained_text(strict, looks)
    assert "Be kind" not in text_of(strict, encode(strict, "conversation", "text", conversation("Hello", "Hi"), 0))
    draws = encode(strict, "conversation", "generation", conversation("a dog", PLACEHOLDER), 1)
    assert "Be kind" not in text_of(strict, draws)


def test_training_and_inference_have_the_same_prompt(encoder: Encoder) -> None:
    drawn = encode(encoder, "conversation", "generation", conversation("a red apple", PLACEHOLDER), 1)
    prompt = encoder.generation_prompt_ids("a red apple")
    assert drawn.input_ids[: len(prompt)].tolist() == prompt
    asked = encode(encoder, "conversation", "understanding", conversation(f"{PLACEHOLDER}\nWhat?", "A dog."), 1)
    messages = [{"role": USER, "content": f"{PLACEHOLDER}\nWhat?"}, {"role": ASSISTANT, "content": ""}]
    prompt = encoder.chat_prompt_ids(messages, 1)
    assert asked.input_ids[: len(prompt)].tolist() == prompt
    assert asked.labels[len(prompt) - 2] == IGNORE and asked.labels[len(prompt) - 1] != IGNORE


def test_begin_of_image_predicts_code_0_and_nothing_is_shifted_twice(encoder: Encoder) -> None:
    document = encode(encoder, "text_to_image", "generation", {"caption": "a dog"}, 1)
    begin = document.input_ids.tolist().index(encoder.special.begin_of_image)
    assert np.flatnonzero(document.image_targets).tolist() == list(range(begin, begin + P))
    assert np.flatnonzero(document.modality == IMAGE_CODE).tolist() == list(range(begin + 1, begin + 1 + P))
    text = encode(encoder, "text", "text", {"text": "A red apple."})
    assert text.labels[:-1].tolist() == text.input_ids[1:].tolist() and text.labels[-1] == IGNORE


def test_modality_tells_understanding_from_generation_images(encoder: Encoder) -> None:
    fields = conversation(f"{PLACEHOLDER}\nMake it red.", PLACEHOLDER)
    document = encode(encoder, "conversation", "generation", fields, 2)
    assert (document.modality == IMAGE_FEATURE).sum() == P and (document.modality == IMAGE_CODE).sum() == P
    assert (document.modality == TEXT).sum() == len(document) - 2 * P
    assert document.understanding_pixels[0][32, 32, 0] == 0 and document.generation_pixels[0][32, 32, 0] == 40  # type: ignore[index]
    assert document.codes_have_loss == [True]


def test_the_vq_encoder_sees_the_cropped_image(encoder: Encoder) -> None:
    wide = {"caption": "a dog"}
    drawn = encode(encoder, "text_to_image", "generation", wide, 1).generation_pixels[0]
    seen = encode(encoder, "image_caption", "understanding", wide, 1).understanding_pixels[0]
    assert drawn is not None and drawn.shape == seen.shape == (64, 64, 3)
    assert (seen[0, 0] == 127).all() and not (drawn == 127).any()


def test_cached_codes_replace_the_image(encoder: Encoder) -> None:
    record = Record("k", {"caption": "a dog"}, [plain_image()], [np.arange(P)])
    document = document_of(encoder, record, "text_to_image", "generation")
    assert document.generation_pixels == [None] and document.codes[0].tolist() == list(range(P))  # type: ignore[union-attr]
    record.codes[0] = np.arange(9)
    with pytest.raises(BadSample, match="shape"):
        document_of(encoder, record, "text_to_image", "generation")


@pytest.mark.parametrize(
    ("template", "fields"),
    [
        ("text_to_image", {"caption": "a red dog"}),
        ("class_to_image", {"class_name": "dog"}),
        ("conversation", conversation("Draw a dog", PLACEHOLDER)),
    ],
)
def test_guidance_dropout_keeps_bos_and_begin_of_image_and_the_length(
    encoder: Encoder, template: str, fields: dict[str, Any]
) -> None:
    whole = encode(encoder, template, "generation", fields, 1)
    dropped = encode(encoder, template, "generation", fields, 1, dropout=1.0)
    begin = whole.input_ids.tolist().index(encoder.special.begin_of_image)
    assert dropped.input_ids[0] == encoder.special.bos
    assert dropped.input_ids[begin] == encoder.special.begin_of_image
    assert set(dropped.input_ids[1:begin].tolist()) == {encoder.special.pad}
    assert (dropped.input_ids[begin:] == whole.input_ids[begin:]).all()
    assert (dropped.image_targets == whole.image_targets).all()


@pytest.mark.parametrize(
    ("template", "kind", "fields", "images"),
    [
        ("text", "text", {"text": "A dog."}, 0),
        ("image_caption", "understanding", {"caption": "a dog"}, 1),
        ("conversation", "understanding", conversation(f"{PLACEHOLDER}What?", "A dog."), 1),
        ("conversation", "generation", conversation("Draw a dog.", f"Here: {PLACEHOLDER}"), 1),
    ],
)
def test_guidance_dropout_touches_nothing_but_prompts_of_images(
    encoder: Encoder, template: str, kind: Kind, fields: dict[str, Any], images: int
) -> None:
    whole = encode(encoder, template, kind, fields, images)
    dropped = encode(encoder, template, kind, fields, images, dropout=1.0)
    assert (whole.input_ids == dropped.input_ids).all() and encoder.special.pad not in dropped.input_ids


def test_guidance_dropout_of_an_editing_sample_takes_words_and_image(encoder: Encoder) -> None:
    """As generation compares with: the same length, pad between the first token and the drawn image's begin."""
    fields = conversation(f"{PLACEHOLDER}\nMake it red.", PLACEHOLDER)
    whole = encode(encoder, "conversation", "generation", fields, 2)
    dropped = encode(encoder, "conversation", "generation", fields, 2, dropout=1.0)
    begin = int(np.flatnonzero(whole.image_targets)[0])
    assert whole.input_ids[begin] == encoder.special.begin_of_image and len(dropped) == len(whole)
    assert set(dropped.input_ids[1:begin].tolist()) == {encoder.special.pad}
    assert (dropped.input_ids[begin:] == whole.input_ids[begin:]).all() and dropped.input_ids[0] == whole.input_ids[0]
    assert len(whole.understanding_pixels) == 1 and not dropped.understanding_pixels
    assert (dropped.image_targets == whole.image_targets).all() and whole.image_targets.sum() == 64
    assert not (whole.labels != IGNORE).any(), "the drawn image alone has loss"


def test_guidance_dropout_and_first_sentence_come_as_often_as_asked(encoder: Encoder) -> None:
    record = Record("k", {"caption": "A dog. It is big."}, [plain_image()], [np.arange(P)])
    documents = [
        document_of(encoder, record, "text_to_image", "generation", dropout=0.1, cut=0.25, seed=seed)
        for seed in range(2000)
    ]
    dropped = sum(encoder.special.pad in document.input_ids for document in documents)
    cut = sum(text_of(encoder, document) == f"{BOS}A dog.{IMAGE}" for document in documents)
    assert abs(dropped / 2000 - 0.1) < 0.025 and abs(cut / (2000 - dropped) - 0.25) < 0.04


@pytest.mark.parametrize(
    ("caption", "first"),
    [
        ("A dog. It is big.", "A dog."),
        ("No full stop", "No full stop"),
        ("Version 2.5 of it! Yes.", "Version 2.5 of it!"),
        ("一只狗。很大。", "一只狗。"),
    ],
)
def test_first_sentence(caption: str, first: str) -> None:
    assert first_sentence(caption) == first


@pytest.mark.parametrize(
    ("template", "fields", "images", "message"),
    [
        ("text", {"text": "  "}, 0, "empty"),
        ("text", {"text": 3}, 0, "not a string"),
        ("text", {}, 0, "missing"),
        ("text", {"text": f"a {USER} b"}, 0, "special token"),
        ("image_caption", {"caption": "x"}, 0, "0 images"),
        (
            "text_to_image",
            {"caption": "x"},
            2,
            "2 images where the template takes 1: several images are drawn in a conv",
        ),
        ("class_to_image", {"class_name": "x"}, 0, "0 images where the template takes 1$"),
        ("image_caption", {"caption": ["x", "y"]}, 1, "field 'caption' has 2 values where the template takes one text"),
        (
            "question_answer",
            {"question": ["x?"], "answer": ["y"]},
            1,
            "make a sample of each, or one conversation of all",
        ),
        ("conversation", {"conversations": []}, 0, "empty"),
        ("conversation", conversation("What?", "Two."), 1, "0 placeholders but 1 images"),
        ("conversation", conversation(f"{PLACEHOLDER}{PLACEHOLDER}What?", "Two."), 1, "2 placeholders but 1 images"),
        ("conversation", conversation("What?"), 0, "there is no answer to learn from"),
        ("conversation", conversation("What?", " "), 0, "a turn is empty: turn 1"),
        ("conversation", {"conversations": [{"role": ASSISTANT, "content": "x"}]}, 0, "turn 0 is not the user's"),
        ("conversation", {"conversations": ["x"]}, 0, "turn 0"),
        ("conversation", conversation(f"What {EOS}?", "Two."), 0, "special token"),
    ],
)
def test_bad_samples_say_why(
    encoder: Encoder, template: str, fields: dict[str, Any], images: int, message: str
) -> None:
    with pytest.raises(BadSample, match=message):
        encode(encoder, template, "understanding", fields, images)


def long_conversation(number: int, words: int) -> dict[str, Any]:
    return conversation(*(f"{turn} {'A red apple. ' * words}" for turn in range(2 * number)))


def encode_by_dropping_turns(encoder: Encoder, record: Record, kind: Kind, row_tokens: int, dropout: float) -> Document:
    """What `encode` has to give: the whole record encoded again for each question and answer that goes."""
    turns = record.fields["conversations"]
    for end in range(len(turns), 0, -2):
        fields = {"conversations": turns[:end]}
        images = sum(turn["content"].count(PLACEHOLDER) for turn in turns[:end])
        shorter = Record(record.key, fields, record.images[:images], record.codes[:images])
        document = document_of(encoder, shorter, "conversation", kind, dropout=dropout)
        if len(document) <= row_tokens:
            return document
    raise BadSample("nothing is left")


user_words = st.lists(st.sampled_from([PLACEHOLDER, "What?", " a dog\n", "苹果", " \n"]), min_size=1, max_size=4)
answers = st.lists(st.sampled_from([PLACEHOLDER, "A red apple. ", "苹果", " "]), min_size=1, max_size=3)


@settings(deadline=None, max_examples=150)
@given(
    turns=st.lists(st.tuples(user_words, answers), min_size=1, max_size=5),
    kind=st.sampled_from(["understanding", "text", "generation"]),
    row_tokens=st.integers(8, 700),
    dropout=st.sampled_from([0.0, 1.0]),
)
def test_a_conversation_that_is_too_long_loses_whole_trailing_turns(
    tokenizer: PreTrainedTokenizerFast,
    turns: list[tuple[list[str], list[str]]],
    kind: Kind,
    row_tokens: int,
    dropout: float,
) -> None:
    encoder = Encoder(tokenizer, P, 8, "Look well.")
    contents = ["".join(words) for turn in turns for words in turn]
    assume(all(content.strip() for content in contents))
    images = sum(content.count(PLACEHOLDER) for content in contents)
    record = Record("k", conversation(*contents), [plain_image((i, 0, 0)) for i in range(images)], [None] * images)
    try:
        expected = encode_by_dropping_turns(encoder, record, kind, row_tokens, dropout)
    except BadSample:
        with pytest.raises(BadSample, match="do not fit a row"):
            document_of(encoder, record, "conversation", kind, row_tokens=row_tokens, dropout=dropout)
        return
    document = document_of(encoder, record, "conversation", kind, row_tokens=row_tokens, dropout=dropout)
    assert len(document) <= row_tokens
    for name, values in vars(expected).items():
        np.testing.assert_equal(getattr(document, name), values, err_msg=name)


class CountingEncoder(Encoder):
    """Counts the characters that the tokenizer is given."""

    characters = 0

    def ids(self, text: str) -> list[int]:
        self.characters += len(text)
        return super().ids(text)


@pytest.fixture
def counting_encoder(tokenizer: PreTrainedTokenizerFast) -> CountingEncoder:
    return CountingEncoder(tokenizer, P, 8, "")


def test_an_over_long_conversation_is_tokenized_once_and_no_further_than_a_row_goes(
    counting_encoder: CountingEncoder,
) -> None:
    record = Record("k", long_conversation(2000, words=3))
    document = document_of(counting_encoder, record, "conversation", "text", row_tokens=512)
    assert 400 < len(document) <= 512 and document.input_ids[-1] == counting_encoder.special.eos
    assert counting_encoder.characters < 512 * max(map(len, counting_encoder.tokenizer.get_vocab()))


@pytest.mark.parametrize(
    ("template", "fields", "images", "message"),
    [
        ("text_to_image", {"caption": "A dog " * 100_000}, 1, "600,000 characters do not fit a row of 256 tokens"),
        ("image_caption", {"caption": "A dog " * 100_000}, 1, "600,019 characters do not fit a row"),
        ("conversation", conversation("Why?", "Because " * 100_000), 0, "the first question and answer do not fit"),
        ("text", {"text": "A dog " * 100_000}, 0, r"at most 131,072 are taken \(64 rows of 256 tokens\): split it"),
    ],
)
def test_a_text_that_is_far_too_long_is_refused_before_it_is_tokenized(
    counting_encoder: CountingEncoder, template: str, fields: dict[str, Any], images: int, message: str
) -> None:
    record = Record("k", fields, [plain_image()] * images, [None] * images)
    with pytest.raises(BadSample, match=message):
        document_of(counting_encoder, record, template, "understanding", row_tokens=256)
    assert counting_encoder.characters < 100


def test_a_text_of_several_rows_is_taken_whole_and_may_be_cut(encoder: Encoder) -> None:
    document = document_of(encoder, Record("k", {"text": "A red apple. " * 500}), "text", "text", row_tokens=256)
    assert len(document) > 4 * 256 and document.can_cut


def test_no_text_that_fits_a_row_has_too_many_characters(counting_encoder: CountingEncoder) -> None:
    """The tightest case: the longest token of the vocabulary, as often as a row holds it."""
    longest = max(
        (token for token in counting_encoder.tokenizer.get_vocab() if token.isascii() and token.isalpha()), key=len
    )
    counting_encoder._longest_token = len(longest)
    record = Record("k", {"class_name": longest * 400}, [plain_image()], [None])
    length = 1 + 400 + P + 2
    assert len(document_of(counting_encoder, record, "class_to_image", "generation", row_tokens=length)) == length
    with pytest.raises(BadSample, match=f"{length} tokens do not fit a row of {length - 1}"):
        document_of(counting_encoder, record, "class_to_image", "generation", row_tokens=length - 1)


def without_loss(fields: dict[str, Any], *turns: int) -> dict[str, Any]:
    """The conversation with turns that are context only."""
    return {
        "conversations": [
            turn | {"loss": False} if number in turns else turn for number, turn in enumerate(fields["conversations"])
        ]
    }


def test_a_turn_without_loss_is_read_and_not_learned(encoder: Encoder) -> None:
    fields = conversation(f"{PLACEHOLDER}\nWhat is this?", "A red apple.", "How many?", "One.", "Sure?", "Yes.")
    whole = encode(encoder, "conversation", "understanding", fields, 1)
    masked = encode(encoder, "conversation", "understanding", without_loss(fields, 1, 5), 1)
    assert masked.input_ids.tolist() == whole.input_ids.tolist()
    assert trained_text(encoder, masked) == f" One.{EOS}"
    assert masked.num_loss_tokens == len(encoder.ids(f" One.{EOS}")) < whole.num_loss_tokens
    batch = collate([Row(0, [masked, whole], {})], P, 64)
    assert len(batch.text_positions) == masked.num_loss_tokens + whole.num_loss_tokens


def test_an_image_of_a_turn_without_loss_is_input(encoder: Encoder) -> None:
    fields = conversation("Draw a dog.", PLACEHOLDER, "Make it red.", f"Here: {PLACEHOLDER}")
    whole = encode(encoder, "conversation", "generation", fields, 2)
    masked = encode(encoder, "conversation", "generation", without_loss(fields, 1), 2)
    assert masked.input_ids.tolist() == whole.input_ids.tolist() and (masked.modality == whole.modality).all()
    assert (
        masked.codes_have_loss == [False, True] and whole.image_targets.sum() == 2 * masked.image_targets.sum() == 2 * P
    )
    assert np.flatnonzero(masked.image_targets).tolist() == np.flatnonzero(whole.image_targets)[P:].tolist()


def test_guidance_dropout_takes_turns_without_loss_as_part_of_the_prompt(encoder: Encoder) -> None:
    fields = without_loss(conversation("Draw a dog.", f"Here: {PLACEHOLDER}", "Make it red.", PLACEHOLDER), 1)
    whole = encode(encoder, "conversation", "generation", fields, 2)
    dropped = encode(encoder, "conversation", "generation", fields, 2, dropout=1.0)
    begin = int(np.flatnonzero(whole.image_targets)[0])
    assert len(dropped) == len(whole) and set(dropped.input_ids[1:begin].tolist()) == {encoder.special.pad}
    assert (dropped.image_targets == whole.image_targets).all() and dropped.codes_have_loss == [True]


def test_turns_are_dropped_up_to_a_row_but_never_all_that_have_a_loss(encoder: Encoder) -> None:
    fields = conversation("Why?", "Because.", "What?", "A dog.", "Who?", "Tom. " * 200)
    record = Record("k", without_loss(fields, 1))
    document = document_of(encoder, record, "conversation", "text", row_tokens=64)
    assert trained_text(encoder, document) == f" A dog.{EOS}" and document.input_ids[-1] == encoder.special.eos
    record = Record("k", without_loss(fields, 1, 3))
    assert trained_text(encoder, document_of(encoder, record, "conversation", "text")).startswith(" Tom.")
    with pytest.raises(BadSample, match="no answer with a loss fits a row of 64 tokens"):
        document_of(encoder, record, "conversation", "text", row_tokens=64)


@pytest.mark.parametrize("template", ["image_caption", "question_answer", "class_to_image", "text_to_image"])
def test_tags_beside_an_image_are_never_words(encoder: Encoder, template: str) -> None:
    fields = {"caption": "<image>\na dog", "question": "<image>\nWhat?", "answer": "Two.", "class_name": "<image> dog"}
    with pytest.raises(BadSample, match="has the tag <image>: it would be learned as words"):
        encode(encoder, template, "understanding", fields, 1)
    assert encode(encoder, "text", "text", {"text": "HTML has <video> and <image>."})
