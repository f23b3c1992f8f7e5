"""Conversations in every layout: the same turns come out, and what cannot be read is refused by name."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_train.data.conversations import (
    OUTSIDE,
    Turn,
    UnusableConversation,
    image_name,
    images_in_order,
    read_conversation,
    unread_tag,
)
from janus_train.data.special_tokens import ASSISTANT, EOS, PLACEHOLDER, USER
from janus_train.data.unused import counting

QUESTION, ANSWER = "Picture 1: <image_placeholder>\nWhat is it?", "A dog."
DATA_URI = "data:image/png;base64,AAAA"


def openai(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": ANSWER}]}


def talk(question: Any, answer: Any = ANSWER, **fields: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]} | fields


TEXT = {"type": "text", "text": "What is it?"}
ONE_IMAGE = {
    "LLaVA": (talk("Picture 1: <image>\nWhat is it?"), ["p0.png"]),
    "Qwen-VL": (talk("Picture 1: <img>p0.png</img>\nWhat is it?"), []),
    "Qwen-VL, named twice": (talk("Picture 1: <img> p0.png </img>\nWhat is it?"), ["p0.png"]),
    "Qwen2-VL": (talk("Picture 1: <|vision_start|><|image_pad|><|vision_end|>\nWhat is it?"), ["p0.png"]),
    "Janus": (
        {
            "conversations": [
                {"role": "<|User|>", "content": QUESTION, "images": ["p0.png"]},
                {"role": "<|Assistant|>", "content": ANSWER},
            ]
        },
        [],
    ),
    "pairs": ({"conversation": [{"human": QUESTION, "assistant": ANSWER}]}, ["p0.png"]),
    "prepared": ({"conversations": [Turn(USER, QUESTION).fields(), Turn(ASSISTANT, ANSWER).fields()]}, ["p0.png"]),
}


@pytest.mark.parametrize("layout", ONE_IMAGE)
def test_every_layout_gives_the_same_turns(layout: str) -> None:
    fields, beside = ONE_IMAGE[layout]
    assert images_in_order(fields, beside) == ["p0.png"]
    turns = read_conversation(fields, 1)
    assert [(turn.role, turn.content, turn.loss) for turn in turns] == [
        (USER, QUESTION, True),
        (ASSISTANT, ANSWER, True),
    ]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "p0.png", "detail": "low"}},
        {"type": "image_url", "image_url": "p0.png"},
        {"type": "input_image", "image_url": "p0.png"},
        {"type": "image", "image": "p0.png"},
        {"type": "image", "path": "p0.png"},
        {"type": "image", "url": "p0.png"},
        {"type": "image", "text": None, "image": {"path": "p0.png", "bytes": None}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "p0.png"}},
    ],
)
def test_parts_name_their_image_in_many_ways(part: dict[str, Any]) -> None:
    fields = openai(part, TEXT)
    assert images_in_order(fields, []) == ["p0.png"] == images_in_order(fields, ["p0.png"])
    # each image on a line of its own, as the exported chat template writes it
    assert read_conversation(fields, 1)[0].content == f"{PLACEHOLDER}\nWhat is it?"


def test_images_come_in_the_order_of_their_places() -> None:
    fields = openai({"type": "image"}, TEXT, {"type": "image", "path": "b"}, {"type": "text", "text": "<image>?"})
    assert images_in_order(fields, ["a", "c"]) == ["a", "b", "c"]
    assert read_conversation(fields, 3)[0].content == f"{PLACEHOLDER}\nWhat is it?\n{PLACEHOLDER}\n{PLACEHOLDER}?"
    with pytest.raises(UnusableConversation, match="2 placeholders without a name but 1 images beside the turns"):
        images_in_order(fields, ["a"])


def test_images_of_a_turn_without_a_placeholder_go_in_front_of_its_words() -> None:
    fields = {
        "conversations": [
            {"role": "user", "content": "Make it red.", "images": ["a.png"]},
            {"role": "assistant", "content": "", "images": "b.png"},
        ]
    }
    assert images_in_order(fields, []) == ["a.png", "b.png"]
    question, answer = read_conversation(fields, 2)
    assert question.content == f"{PLACEHOLDER}\nMake it red." and answer.content.strip() == PLACEHOLDER
    fields["conversations"][0]["content"] = "<image> and <image>"  # type: ignore[index]
    with pytest.raises(UnusableConversation, match="placeholders and images of a turn differ in number: turn 0"):
        images_in_order(fields, [])


def test_a_system_message_goes_in_front_of_the_users_words_wherever_it_stands() -> None:
    turn = {"role": "system", "content": "Be brief."}
    inside = {"messages": [turn, *openai(TEXT)["messages"]]}
    for fields in (inside, *(openai(TEXT) | {name: "Be brief."} for name in ("system", "system_prompt"))):
        assert read_conversation(fields, 0)[0].content == "Be brief.\n\nWhat is it?"
    both = openai(TEXT) | {"system": "One.", "system_prompt": "Two."}
    assert read_conversation(both, 0)[0].content == "One.\n\nTwo.\n\nWhat is it?"
    for repair in (True, False):
        with pytest.raises(UnusableConversation, match="no question follows a system message"):
            read_conversation({"messages": [*openai(TEXT)["messages"], turn]}, 0, repair=repair)
    with pytest.raises(UnusableConversation, match="the system message is not a string"):
        read_conversation(openai(TEXT) | {"system": 3}, 0)


@pytest.mark.parametrize("flag", [{"loss": False}, {"weight": 0}, {"train": False}, {"weight": 0.0, "loss": None}])
def test_an_answer_without_loss_is_context(flag: dict[str, Any]) -> None:
    messages = [*openai(TEXT)["messages"], *openai(TEXT)["messages"]]
    messages[1] = messages[1] | flag
    turns = read_conversation({"messages": messages}, 0)
    assert [turn.loss for turn in turns] == [True, False, True, True]
    assert turns[1].fields() == {"role": ASSISTANT, "content": ANSWER, "loss": False}
    assert read_conversation({"conversations": [turn.fields() for turn in turns]}, 0) == turns
    messages[3] = messages[3] | flag
    with pytest.raises(UnusableConversation, match="every answer is without loss"):
        read_conversation({"messages": messages}, 0)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"weight": 0.5}, "a turn's 'weight' is neither 0 nor 1: turn 1: 0.5"),
        ({"loss": "false"}, "a turn's 'loss' is neither 0 nor 1"),
        ({"weight": -1}, "a turn's 'weight' is neither 0 nor 1"),
        ({"loss": True, "train": False}, "a turn's 'loss' and 'train' contradict each other"),
        ({"train_detail": [{"begin_offset": 0}]}, "losses on parts of a turn are not supported"),
    ],
)
def test_other_weights_are_refused_by_name(flags: dict[str, Any], reason: str) -> None:
    messages = openai(TEXT)["messages"]
    messages[1] |= flags
    with pytest.raises(UnusableConversation, match=reason):
        read_conversation({"messages": messages}, 0)


def test_no_other_turn_can_have_a_loss() -> None:
    messages = openai(TEXT)["messages"]
    messages[0]["loss"] = False  # as it is
    assert read_conversation({"messages": messages}, 0)
    messages[0]["loss"] = True
    with pytest.raises(UnusableConversation, match="'loss' asks for a loss on a turn that is not the assistant's"):
        read_conversation({"messages": messages}, 0)


REFUSED = {
    r"tools are not supported \(field 'tools'\)": talk("x", tools=[{"name": "f"}]),
    r"tools are not supported \(field 'functions'\)": talk("x", functions='[{"name": "f"}]'),
    r"videos and audio are not supported \(field 'videos'\)": talk("x", videos=["v.mp4"]),
    r"preferences are not supported \(field 'rejected'\)": talk("x", rejected="no"),
    r"tools are not supported \(role 'function-call'\): turn 0": {
        "messages": [{"role": "function-call", "content": "x"}]
    },
    r"tools are not supported \(role 'observation'\)": {"messages": [{"role": "observation", "content": "x"}]},
    r"tools are not supported \(field 'tool_calls'\): turn 0": {
        "messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]
    },
    "parts of type 'video' are not supported: turn 0": openai({"type": "video", "video": "v.mp4"}, TEXT),
    "parts of type 'input_audio' are not supported": openai({"type": "input_audio"}, TEXT),
    "a turn's role is unknown: turn 0: 'narrator'": {"messages": [{"role": "narrator", "content": "x"}]},
    "there is no conversation": {"conversations": []},
    "contains the special token": talk(f"x{EOS}"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_would_change_the_meaning_is_refused_by_name(reason: str) -> None:
    for repair in (True, False):
        with pytest.raises(UnusableConversation, match=reason):
            read_conversation(REFUSED[reason], 0, repair=repair)


def test_empty_fields_refuse_nothing() -> None:
    assert read_conversation(talk("x", tools=[], functions="[]", videos=None, rejected="", system=""), 0)


@pytest.mark.parametrize(
    "tag",
    [
        "<ref>", "</box>", "<quad>", "<img>", "</img>", "<img></img>", "<video>", "<audio>", "<|image_pad|>",
        "<|vision_start|>", "<|video_pad|>", "<|image_1|>", "<image_2>", "<|image|>", "<|AUDIO|>", "<ImageHere>", "[IMG]",
        "<start_of_image>", "<im_start>", "</image>", f"![]({DATA_URI})", "<|object_ref_start|>",
    ],
)  # fmt: skip
def test_tags_that_are_not_read_are_never_words(tag: str) -> None:
    for fields in (talk(f"What is {tag}?"), talk("What?", f"It is {tag}."), openai({"type": "text", "text": tag})):
        with pytest.raises(UnusableConversation, match=r"a turn has the tag .*, which is not supported: turn"):
            read_conversation(fields, 0, repair=True)
    assert unread_tag(f"What is {tag}?")


@pytest.mark.parametrize("words", ["<image>", PLACEHOLDER, "<img>p0.png</img>"])
def test_a_place_without_an_image_is_never_words(words: str) -> None:
    for repair in (True, False):
        with pytest.raises(UnusableConversation, match="differ in number: 1 placeholders but 0 images"):
            read_conversation(talk(words), 0, repair=repair)
    assert unread_tag(words) == words


def test_words_with_angles_stay_words() -> None:
    words = '<p>a < b</p> <image src="x"> ![](a.png) <video controls> if x<image'
    assert read_conversation(talk(words), 0)[0].content == words and unread_tag(words) is None


def test_only_prepare_repairs_and_counts_what_it_leaves_out() -> None:
    turns = talk("Hello")["conversations"]
    fields = {"conversations": [{"from": "gpt", "value": "Early."}, *turns, {"from": "human", "value": "Late."}]}
    with pytest.raises(UnusableConversation, match="the turns do not alternate: turn 0 is not the user's"):
        read_conversation(fields, 0)
    with counting() as unused:
        assert [turn.content for turn in read_conversation(fields, 0, repair=True)] == ["Hello", ANSWER]
    assert unused == {OUTSIDE: 2}
    with pytest.raises(UnusableConversation, match="0 placeholders but 1 images"):
        read_conversation(talk("Hello"), 1)
    assert read_conversation(talk("Hello"), 1, repair=True)[0].content == f"{PLACEHOLDER}\nHello"


def test_fields_of_turns_and_parts_that_say_something_else_are_counted() -> None:
    fields = openai({"type": "text", "text": "Hi", "cache": 1, "image": None})
    fields["messages"][1] |= {"name": "Tom", "refusal": None}
    with counting() as unused:
        read_conversation(fields, 0)
        images_in_order(fields, [])
    assert unused == {"fields 'messages.name'": 1, "fields 'messages.content.cache'": 1}


def test_image_name() -> None:
    assert image_name({"path": "a.png", "bytes": None}) == "a.png" and image_name({"bytes": b"x"}) == b"x"
    assert image_name(3) is None and image_name("") is None and image_name({"x": "y"}) is None


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(-2, 2), st.sampled_from(["", "user", "gpt", "<image>", "x"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["role", "from", "content", "value", "type", "text", "image", "images", "loss", "weight", "human", "assistant"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)  # fmt: skip


@given(
    fields=st.dictionaries(st.sampled_from(["conversations", "messages", "system", "tools"]), VALUES),
    num_images=st.integers(0, 2),
    repair=st.booleans(),
)
def test_whatever_a_record_holds_is_read_or_refused(fields: dict[str, Any], num_images: int, repair: bool) -> None:
    for read in (lambda: read_conversation(fields, num_images, repair=repair), lambda: images_in_order(fields, ["a"])):
        with suppress(UnusableConversation):
            read()
