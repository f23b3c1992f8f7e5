"""Conversations in every layout in which they are published."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import pytest

from janus_train.data.conversations import OUTSIDE
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
    plain_text = [{"from": "human", "value": "Write a paragraph in HTML."}, {"from": "gpt", "value": "<p>Hi</p>"}]
    records = [
        {"id": "000000033471", "image": "coco/1.jpg", "conversations": talk},
        {"id": "two", "image": ["coco/1.jpg", "vg/2.jpg"], "conversations": two_images},
        {"id": "wgByO4Y_0", "model": "", "conversations": plain_text},
    ]
    file = write(tmp_path / "mix.json", records)
    prepared = make("conversations", file, out=tmp_path / "out", images=str(tmp_path / "images"))
    assert prepared["unused"] == {"fields 'id'": 1}, "without an image the id is in no key"
    result = samples(tmp_path / "out")
    assert result[0][1]["conversations"] == [
        {"role": USER, "content": f"{PLACEHOLDER}\nWhat is it?"},
        {"role": ASSISTANT, "content": "A dog."},
    ]
    assert len(result[1][2]) == 2
    assert result[1][1]["conversations"][0]["content"] == f"{PLACEHOLDER} or {PLACEHOLDER}?"
    assert result[2][1]["conversations"][1]["content"] == "<p>Hi</p>"
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
    prepared = make("conversations", file, out=tmp_path / "out")
    assert prepared["unused"] == {OUTSIDE: 2, "fields 'conversation_id'": 1, "fields 'id'": 1}
    contents = [[turn["content"] for turn in record["conversations"]] for record in fields(tmp_path / "out")]
    assert contents == [["Hello", "Hi"], ["Be brief.\n\nSay yes", "yes"], ["你好", "你好！", "再见", "再见！"]]


BAD_TURNS = {
    "the turns do not alternate": [("human", "a"), ("human", "b"), ("gpt", "c")],
    "a turn is empty": [("human", " "), ("gpt", "c")],
    "a turn's role is unknown": [("narrator", "a"), ("gpt", "c")],
    "tools are not supported (role 'tool')": [("human", "a"), ("tool", "b"), ("gpt", "c")],
    "a turn has the tag <box>, which is not supported": [("human", "Where? <box>(1,2)</box>"), ("gpt", "c")],
    "there is no answer to learn from": [("human", "a")],
    "a turn is not a string": [("human", 3), ("gpt", "c")],
    "placeholders and images differ in number": [("human", "<image>\nWhat?"), ("gpt", "c")],
    "every answer is without loss": [("human", "a"), ("gpt", {"value": "c", "loss": False})],
    "a turn's 'weight' is neither 0 nor 1": [("human", "a"), ("gpt", {"value": "c", "weight": 0.5})],
}


@pytest.mark.parametrize("reason", BAD_TURNS)
def test_conversations_that_cannot_be_used(tmp_path, reason):
    good_record = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    bad_turns = [
        {"from": role} | (words if isinstance(words, dict) else {"value": words}) for role, words in BAD_TURNS[reason]
    ]
    bad_record = {"conversations": bad_turns}
    file = write(tmp_path / "x.jsonl", [good_record, bad_record])
    result = make("conversations", file, out=tmp_path / "out", max_bad=0.5)
    assert result["skipped"] == {reason: 1}
    assert skipped(tmp_path / "out")[0]["where"] == f"{file}:2"


PNG = image_bytes(1, "PNG")
BASE64 = base64.b64encode(PNG).decode()
ANSWER = {"role": "assistant", "content": "A dog."}
WITH_THE_IMAGE = {
    "Qwen-VL": [{"role": "user", "content": "Picture 1: <img>p0.png</img>\nWhat is it?"}, ANSWER],
    "image_url": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "p0.png"}}]}, ANSWER],
    "image": [{"role": "user", "content": [{"type": "image", "image": "p0.png"}]}, ANSWER],
    "data: URI": [{"role": "user", "content": [{"type": "image", "url": f"data:image/png;base64,{BASE64}"}]}, ANSWER],
    "data: URI in the words": [{"role": "user", "content": f"<img>data:image/png;base64,{BASE64}</img>"}, ANSWER],
    "base64": [{"role": "user", "content": [{"type": "image_url", "image_url": BASE64}]}, ANSWER],
}


@pytest.mark.parametrize("layout", WITH_THE_IMAGE)
def test_turns_that_name_or_contain_their_image(tmp_path, layout):
    write(tmp_path / "p0.png", PNG)
    file = write(tmp_path / "x.jsonl", [{"messages": WITH_THE_IMAGE[layout]}] * 2)
    make("conversations", file, out=tmp_path / "out")
    for _, record, images in samples(tmp_path / "out"):
        assert images == [PNG], "byte for byte"
        content = record["conversations"][0]["content"]
        assert content == (f"Picture 1: {PLACEHOLDER}\nWhat is it?" if layout == "Qwen-VL" else PLACEHOLDER)


def test_base64_beside_the_turns_and_images_that_are_none(tmp_path):
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    bad_images = ["data:image/png;base64,AAAA", "data:image/png;base64,A", f"data:image/png;base64,{BASE64[:400]}"]
    records = [{"image": image, "conversations": talk} for image in [BASE64, *bad_images]]
    file = write(tmp_path / "x.jsonl", [*records, {"image": None, "conversations": talk[:0]}])
    result = make("conversations", file, out=tmp_path / "out", max_bad=0.9)
    assert result["samples"] == 1 and samples(tmp_path / "out")[0][2] == [PNG]
    assert result["skipped"] == {"the image does not open": 3, "there is no conversation": 1}


def test_system_loss_and_unused_fields_reach_the_shard_and_prepared_json(tmp_path):
    turns = [
        {"from": "human", "value": "Hello"},
        {"from": "gpt", "value": "Hi", "weight": 0, "model": "x"},
        {"from": "human", "value": "Who?"},
        {"from": "gpt", "value": "Tom."},
    ]
    record = {"system": "Be brief.", "conversations": turns, "source": "web", "tools": [], "note": ""}
    result = make("conversations", write(tmp_path / "x.jsonl", [record] * 3), out=tmp_path / "out")
    assert result["unused"] == {"fields 'conversations.model'": 3, "fields 'source'": 3}
    assert fields(tmp_path / "out")[0]["conversations"] == [
        {"role": USER, "content": "Be brief.\n\nHello"},
        {"role": ASSISTANT, "content": "Hi", "loss": False},
        {"role": USER, "content": "Who?"},
        {"role": ASSISTANT, "content": "Tom."},
    ]


def command(*words):
    return subprocess.run([sys.executable, "-m", "janus_train.cli", *map(str, words)], capture_output=True, text=True)


def test_the_command_says_what_it_did_not_use_and_why_it_skips(tmp_path):
    good = {"system": "Be brief.", "id": 7, "messages": [{"role": "user", "content": "Hello"}, ANSWER]}
    with_tools = good | {"tools": [{"name": "search"}]}
    file = write(tmp_path / "x.jsonl", "\n".join(["", *map(json.dumps, [good, good]), " ", json.dumps(with_tools), ""]))
    outcome = command("prepare", "conversations", file, "--out", tmp_path / "out", "--max-bad", 0.5)
    assert outcome.returncode == 0 and "2 samples" in outcome.stdout and "1 skipped" in outcome.stdout
    assert "not used: 2 fields 'id'" in outcome.stderr
    assert json.loads((tmp_path / "out/prepared.json").read_text())["unused"] == {"fields 'id'": 2}
    assert skipped(tmp_path / "out") == [
        {"where": f"{file}:5", "reason": "tools are not supported (field 'tools')", "detail": "", "left_out": False}
    ]
    assert command("verify", tmp_path / "out").returncode == 0


@pytest.mark.parametrize("image", ["https://host/p0.png", {"url": "http://host/p0.png"}])
def test_an_address_is_refused_with_what_to_do(tmp_path, image):
    record = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": image}]}, ANSWER]}
    outcome = command("prepare", "conversations", write(tmp_path / "x.jsonl", [record]), "--out", tmp_path / "out")
    assert outcome.returncode == 2 and not (tmp_path / "out").exists()
    assert "x.jsonl:1: the image is an address" in outcome.stderr and "download the images first" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
