"""Conversations in every layout in which they are published."""

from __future__ import annotations

import pytest

from janus_train.data.sources.shards import ShardSource
from janus_train.data.special_tokens import ASSISTANT, PLACEHOLDER, USER
from janus_train.data.templates import get_template
from tests.datatools.prepare.making import fields, image_bytes, make, samples, skipped, write


def test_llava(tmp_path):
    """llava_v1_5_mix665k.json: with an image, with several, and without any."""
    for name in ("coco/1.jpg", "vg/2.jpg"):
        write(tmp_path / "images" / name, image_bytes(len(name)))
    talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]
    two_images = [{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "The first."}]
    plain_text = [{"from": "human", "value": "Write <image> in HTML."}, {"from": "gpt", "value": "<image>"}]
    records = [
        {"id": "000000033471", "image": "coco/1.jpg", "conversations": talk},
        {"id": "two", "image": ["coco/1.jpg", "vg/2.jpg"], "conversations": two_images},
        {"id": "wgByO4Y_0", "model": "", "conversations": plain_text},
    ]
    file = write(tmp_path / "mix.json", records)
    make("conversations", file, out=tmp_path / "out", images=str(tmp_path / "images"))
    result = samples(tmp_path / "out")
    assert result[0][1]["conversations"] == [
        {"role": USER, "content": f"{PLACEHOLDER}\nWhat is it?"},
        {"role": ASSISTANT, "content": "A dog."},
    ]
    assert len(result[1][2]) == 2
    assert result[1][1]["conversations"][0]["content"] == f"{PLACEHOLDER} or {PLACEHOLDER}?"
    assert result[2][1]["conversations"][0]["content"] == "Write <image> in HTML.", "no image: the words are words"
    source = ShardSource([tmp_path / "out/shard-00000.tar"])
    assert [len(get_template("conversation").build(source[i])) for i in range(3)] == [5, 7, 3]


def test_images_and_text_apart(tmp_path):
    """One file for two sources: the records with an image, and those without."""
    write(tmp_path / "1.jpg", image_bytes(1))
    contents = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]
    file = write(tmp_path / "x.jsonl", [{"image": "1.jpg", "conversations": contents}, {"conversations": contents}])
    with_images = make("conversations", file, out=tmp_path / "a", min_pictures=1)
    without = make("conversations", file, out=tmp_path / "b", max_pictures=0)
    assert [with_images["samples"], without["samples"]] == [1, 1]
    assert with_images["left_out"] == without["left_out"] == {"more or fewer images than asked for": 1}
    assert fields(tmp_path / "a")[0]["conversations"][0]["content"] == f"{PLACEHOLDER}\nHello"


def test_janus_form(tmp_path):
    write(tmp_path / "a.png", image_bytes(1, "PNG"))
    write(tmp_path / "b.png", image_bytes(2, "PNG"))
    turns = [
        {"role": "<|User|>", "content": "<image_placeholder>\nAnd as a drawing?", "images": ["a.png"]},
        {"role": "<|Assistant|>", "content": "<image_placeholder>", "images": ["b.png"]},
    ]
    file = write(tmp_path / "x.jsonl", [{"conversations": turns}])
    make("conversations", file, out=tmp_path / "out")
    (result,) = samples(tmp_path / "out")
    assert result[2] == [image_bytes(1, "PNG"), image_bytes(2, "PNG")]
    roles = [
        segment.role
        for segment in get_template("conversation").build(ShardSource([tmp_path / "out/shard-00000.tar"])[0])
    ]
    assert roles == ["text", "image_in", "text", "text", "image_out", "text"]


def test_sharegpt_and_messages(tmp_path):
    records = [
        {"id": 1, "conversations": [
            {"from": "gpt", "value": "left away"},
            {"from": "human", "value": "Hello"},
            {"from": "gpt", "value": "Hi"},
            {"from": "human", "value": "left away"},
        ]},
        {"messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "yes"}]},
            {"role": "assistant", "content": "yes"},
        ]},
        {"conversation_id": 3, "conversation": [{"human": "你好", "assistant": "你好！"}, {"human": "再见", "assistant": "再见！"}]},
    ]  # fmt: skip
    file = write(tmp_path / "x.jsonl", records)
    make("conversations", file, out=tmp_path / "out")
    contents = [[turn["content"] for turn in record["conversations"]] for record in fields(tmp_path / "out")]
    assert contents == [["Hello", "Hi"], ["Be brief.\n\nSay yes", "yes"], ["你好", "你好！", "再见", "再见！"]]


BAD_TURNS = {
    "the turns do not alternate": [("human", "a"), ("human", "b"), ("gpt", "c")],
    "a turn is empty": [("human", " "), ("gpt", "c")],
    "a turn's role is unknown": [("tool", "a"), ("gpt", "c")],
    "there is no answer to learn from": [("human", "a")],
    "a turn is not a string": [("human", 3), ("gpt", "c")],
    "placeholders and images differ in number": [("human", "<image_placeholder>"), ("gpt", "c")],
}


@pytest.mark.parametrize("reason", BAD_TURNS)
def test_conversations_that_cannot_be_used(tmp_path, reason):
    good_record = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    bad_record = {"conversations": [{"from": role, "value": words} for role, words in BAD_TURNS[reason]]}
    file = write(tmp_path / "x.jsonl", [good_record, bad_record])
    result = make("conversations", file, out=tmp_path / "out", max_bad=0.5)
    assert result["skipped"] == {reason: 1}
    assert skipped(tmp_path / "out")[0]["where"] == f"{file}:2"
