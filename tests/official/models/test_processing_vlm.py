"""The processor: official prompts, ids with BOS, placeholders, batches, and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from janus_train.data.special_tokens import BOS
from janus_train.errors import UserError
from janus_train.interop.processor import SYSTEM_PROMPT
from janus_train.official.models import VLChatProcessor
from janus_train.paths import ROOT
from tests.official.conftest import LOOK, noise

GOLDEN = json.loads((ROOT / "tests/golden/official_prompts.json").read_text(encoding="utf-8"))
OPEN = {"role": "<|Assistant|>", "content": ""}


@pytest.fixture
def processor(folder: Path) -> VLChatProcessor:
    return VLChatProcessor.from_pretrained(folder)


def user(content: str, role: str = "<|User|>") -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden["name"])
def test_golden_prompts(folders: dict[str, Path], golden: dict) -> None:
    processor = VLChatProcessor.from_pretrained(folders["official"])
    text = processor.apply_sft_template_for_multi_turn_prompts(golden["messages"], system_prompt=golden["system"])
    assert text == golden["prompt"].strip()


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        ([user("")], "<|User|>:"),
        ([user(" a \n"), user("b"), user("c")], "<|User|>: a\n\n<|User|>: b<｜end▁of▁sentence｜><|User|>: c"),
        ([user("be brief", "system"), user("a", "Me")], "system: be brief\n\nMe: a<｜end▁of▁sentence｜>"),
    ],
)
def test_roles_are_verbatim_and_separators_go_by_the_turns_place(
    folders: dict[str, Path], turns: list[dict[str, str]], text: str
) -> None:
    processor = VLChatProcessor.from_pretrained(folders["official"])
    for name in ("deepseek", "deepseek_old"):
        assert processor.apply_sft_template_for_multi_turn_prompts(turns, name) == text


def test_settings_of_both_layouts(processor: VLChatProcessor, tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = tokenizer.get_vocab()
    assert (processor.image_processor.image_size, processor.num_image_tokens) == (32, 16)
    assert processor.image_processor.background_color == (127, 127, 127)
    assert (processor.sft_format, processor.system_prompt) == ("deepseek", SYSTEM_PROMPT)
    for token, number in (
        (processor.image_tag, processor.image_id),
        (processor.image_start_tag, processor.image_start_id),
        (processor.image_end_tag, processor.image_end_id),
        (processor.pad_tag, processor.pad_id),
    ):
        assert vocabulary[token] == number == processor.tokenizer.vocab.get(token)
    assert processor.tokenizer.encode("ab")[0] == processor.tokenizer.bos_token_id == vocabulary[BOS]
    assert processor.tokenizer.decode(processor.tokenizer.encode("苹果 ab"), skip_special_tokens=True) == "苹果 ab"


def test_a_trained_models_system_prompt_counts_and_can_be_set(folders: dict[str, Path], tmp_path: Path) -> None:
    values = json.loads((folders["final"] / "processor_config.json").read_text())
    for path in folders["final"].iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "processor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps(values | {"system_prompt": "Look well."}))
    processor = VLChatProcessor.from_pretrained(tmp_path)
    turns = [user("a"), OPEN]
    assert processor(conversations=turns).sft_format[0] == "Look well.\n\n<|User|>: a\n\n<|Assistant|>:"
    processor.system_prompt = ""
    assert processor(conversations=turns).sft_format[0] == "<|User|>: a\n\n<|Assistant|>:"
    assert VLChatProcessor.system_prompt == SYSTEM_PROMPT


def test_an_official_export_keeps_the_system_prompt(folders: dict[str, Path], tmp_path: Path) -> None:
    for path in folders["official"].iterdir():
        (tmp_path / path.name).symlink_to(path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    own = {"janus_train": {"system_prompt": "Look well.", "guidance": 2.0, "temperature": 1.0}}
    (tmp_path / "config.json").write_text(json.dumps(values | own))
    assert VLChatProcessor.from_pretrained(tmp_path).system_prompt == "Look well."


def test_one_conversation(processor: VLChatProcessor) -> None:
    one = processor.process_one(conversations=[user(f"{LOOK}or{LOOK}?"), OPEN], images=[noise(0), noise(1)])
    assert len(one) == len(one.input_ids) == len(one["input_ids"])
    assert one.num_image_tokens.tolist() == [16, 16] and one.num_image_tokens.dtype == torch.int32
    assert one.pixel_values.shape == (2, 3, 32, 32) and one.pixel_values.dtype == torch.float32
    ids = one.input_ids.tolist()
    start = ids.index(processor.image_start_id)
    assert ids[start : start + 18] == [processor.image_start_id, *[processor.image_id] * 16, processor.image_end_id]
    assert ids.count(processor.image_id) == 32
    assert (
        ids
        == processor(
            conversations=[user(f"{LOOK}or{LOOK}?"), OPEN], images=[noise(0), noise(1)], force_batchify=False
        ).input_ids.tolist()
    )
    kept = VLChatProcessor(processor.image_processor, processor.tokenizer, num_image_tokens=16, add_special_token=True)
    assert kept(prompt=f"a {LOOK} b", images=[noise(0)]).input_ids[0].tolist().count(processor.image_id) == 17


def test_a_batch_is_attributes_items_and_keywords(processor: VLChatProcessor) -> None:
    prepared = [
        processor.process_one(prompt=f"a longer text {LOOK} b", images=[noise(0)]),
        processor.process_one(prompt="ab"),
    ]
    batch = processor.batchify(prepared)
    assert set(batch.keys()) == {
        *("sft_format", "input_ids", "pixel_values", "attention_mask", "images_seq_mask", "images_emb_mask")
    }
    assert dict(**batch)["input_ids"] is batch["input_ids"] is batch.input_ids
    short = len(prepared[1])
    assert batch.input_ids[1, :-short].eq(processor.pad_id).all()
    assert batch.input_ids[1, -short:].equal(prepared[1].input_ids)
    assert batch.attention_mask[1].sum() == short and batch.attention_mask.dtype == torch.int64
    assert batch.images_seq_mask.sum(1).tolist() == [16, 0] and batch.images_seq_mask.dtype == torch.bool
    assert batch.images_emb_mask.shape == (2, 1, 16) and batch.images_emb_mask.sum((1, 2)).tolist() == [16, 0]
    assert batch.pixel_values.shape == (2, 1, 3, 32, 32) and not batch.pixel_values[1].any()
    assert batch.to("meta") is batch
    assert batch.pixel_values.dtype == torch.bfloat16 and batch.input_ids.device.type == "meta"
    batch["extra"] = 1
    assert "extra" in batch.keys()  # noqa: SIM118 - it is no mapping


def test_what_it_saves_it_reads_again(processor: VLChatProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path / "new/saved")
    again = VLChatProcessor.from_pretrained(tmp_path / "new/saved")
    request = {"conversations": [user(f"{LOOK}\n苹果?"), OPEN], "images": [noise(3)]}
    first, second = processor(**request), again(**request)
    assert first.input_ids.equal(second.input_ids) and first.pixel_values.equal(second.pixel_values)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "give the processor either prompt= or conversations="),
        ({"prompt": "a", "conversations": [user("a")]}, "give the processor either prompt= or conversations="),
        ({"conversations": [user(LOOK)]}, "the prompt has 1 <image_placeholder> and there are 0 images"),
        ({"prompt": "a", "images": [noise(0)]}, "the prompt has 0 <image_placeholder> and there are 1 images"),
        ({"prompt": LOOK, "images": ["a.png"]}, "an image is a str: give PIL images"),
        ({"conversations": [{"role": "<|User|>"}]}, "a turn is .*: give it a role and a content"),
        ({"conversations": [{"role": "User", "content": None}]}, "a turn is .*: give it a role and a content"),
    ],
)
def test_mistakes_are_one_line(folders: dict[str, Path], request_: dict, message: str) -> None:
    processor = VLChatProcessor.from_pretrained(folders["official"])
    with pytest.raises(UserError, match=message) as error:
        processor(**request_)
    assert "\n" not in str(error.value)


def test_what_is_missing_is_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    processor = VLChatProcessor.from_pretrained(folders["official"])
    with pytest.raises(UserError, match="sft_format 'llama-2' is unknown; known are deepseek, deepseek_old"):
        processor.apply_sft_template_for_multi_turn_prompts([user("a")], "llama-2")
    with pytest.raises(UserError, match="batchify needs at least one"):
        processor.batchify([])
    with pytest.raises(UserError, match=r"config\.json is missing"):
        VLChatProcessor.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="there is no such folder"):
        VLChatProcessor.from_pretrained(tmp_path / "nowhere")
    processor.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        VLChatProcessor.from_pretrained(tmp_path)


def test_a_folder_without_processor_files(folders: dict[str, Path], tmp_path: Path) -> None:
    """As transformers' save_pretrained of a model and a tokenizer leaves it."""
    for path in folders["final"].iterdir():
        if "processor" not in path.name:
            (tmp_path / path.name).symlink_to(path)
    processor = VLChatProcessor.from_pretrained(tmp_path)
    request = {"prompt": LOOK, "images": [noise(3)]}
    assert processor(**request).pixel_values.equal(
        VLChatProcessor.from_pretrained(folders["final"])(**request).pixel_values
    )
    assert processor.num_image_tokens == 16
