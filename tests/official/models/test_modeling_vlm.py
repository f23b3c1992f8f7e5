"""The official names over the shared model: the golden vectors, the same answers and codes as load_model, no second copy."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM, JanusForConditionalGeneration, LlamaForCausalLM

from janus_train.data.prompt_format import PromptStyle
from janus_train.errors import UserError
from janus_train.infer.generate import generate_codes
from janus_train.infer.load import load_model
from janus_train.interop.processor import SYSTEM_PROMPT
from janus_train.official.models import MultiModalityCausalLM, VLChatProcessor, VLMImageProcessor
from tests.interop.test_adapter import write_adapter
from tests.model.test_golden_model import GOLDEN, PAD, image, official_model, prompts, relative
from tests.official.conftest import LOOK, noise

QUESTION = f"{LOOK}\nWhat colour is the background?"


@pytest.fixture
def model(folder: Path) -> MultiModalityCausalLM:
    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert type(loaded) is MultiModalityCausalLM
    return loaded


def answer(model: MultiModalityCausalLM, processor: VLChatProcessor, content: str, images: list) -> str:
    turns = [{"role": "<|User|>", "content": content}, {"role": "<|Assistant|>", "content": ""}]
    batch = processor(conversations=turns, images=images).to(model.device, dtype=model.dtype)
    ids = model.language_model.generate(
        inputs_embeds=model.prepare_inputs_embeds(**batch),
        attention_mask=batch.attention_mask,
        pad_token_id=processor.tokenizer.eos_token_id,
        eos_token_id=processor.tokenizer.eos_token_id,
        max_new_tokens=12,
        do_sample=False,
    )
    return processor.tokenizer.decode(ids[0].tolist(), skip_special_tokens=True).strip()


@pytest.mark.parametrize(("content", "images"), [(QUESTION, [noise(0)]), ("Hello  there", [])])
def test_it_answers_as_load_model_does(folder: Path, model, content: str, images: list) -> None:
    style = PromptStyle(system=SYSTEM_PROMPT)  # the official prompt has it without an image too
    chat = load_model(folder).chat([{"role": "user", "content": content}], images, 12, style=style)
    assert answer(model, VLChatProcessor.from_pretrained(folder), content, images) == "".join(chat) != ""


@torch.inference_mode()
def likeliest_codes(model: MultiModalityCausalLM, ids: torch.Tensor, pad: int, number: int) -> torch.Tensor:
    rows = ids.repeat(2, 1)
    rows[1, 1:-1] = pad
    embeds, cache, codes = model.language_model.get_input_embeddings()(rows.int()), None, []
    for _ in range(number):
        step = model.language_model.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        conditional, without = model.gen_head(step.last_hidden_state[:, -1])
        codes.append((without + 5 * (conditional - without)).argmax())
        embeds = model.prepare_gen_img_embeds(codes[-1].repeat(2))[:, None]
    return torch.stack(codes)


def test_it_draws_the_codes_and_the_image_of_load_model(folder: Path, model) -> None:
    loaded = load_model(folder)
    ids = loaded.encoder.generation_prompt_ids("a red apple")
    expected = generate_codes(
        loaded.janus, [ids], pad_id=loaded.encoder.special.pad, guidance=5.0, temperature=1.0, seeds=[0], greedy=True
    )
    codes = likeliest_codes(model, torch.tensor(ids), loaded.encoder.special.pad, 16)
    assert torch.equal(codes, expected[0]) and len(set(codes.tolist())) > 2
    pixels = model.gen_vision_model.decode_code(codes[None].int(), shape=[1, 8, 4, 4])
    levels = ((pixels.detach().permute(0, 2, 3, 1) + 1) / 2 * 255).clamp(0, 255).to(torch.uint8)
    drawn = loaded.generate(["a red apple"], seeds=[0], guidance=5.0, temperature=0)[0]
    assert np.abs(np.asarray(drawn).astype(int) - levels[0].numpy()).max() <= 1


def test_it_is_one_model_not_two(model: MultiModalityCausalLM) -> None:
    own = {id(parameter) for parameter in model.parameters()}
    assert own == {id(parameter) for parameter in model.janus.parameters()}
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert type(model.language_model) is LlamaForCausalLM
    assert model.language_model.config is model.config.language_config is model.janus.model.language_model.config
    assert "q_proj" in dict(model.language_model.model.layers[0].self_attn.named_modules())
    assert model.to(torch.bfloat16) is model and model.dtype == torch.bfloat16 and model.device.type == "cpu"
    assert {parameter.dtype for parameter in model.janus.parameters()} == {torch.bfloat16}
    copied = copy.deepcopy(model)
    assert {id(p) for p in copied.parameters()} == {id(p) for p in copied.janus.parameters()}
    assert not own & {id(parameter) for parameter in copied.parameters()}


def test_peft_trains_its_language_model(model: MultiModalityCausalLM, folder: Path) -> None:
    model.requires_grad_(False)
    model.language_model = get_peft_model(model.language_model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    model.language_model.enable_input_require_grads()
    batch = VLChatProcessor.from_pretrained(folder)(prompt=f"a {LOOK} b", images=[noise(1)]).to("cpu", torch.float32)
    embeds = model.prepare_inputs_embeds(**batch)
    model.language_model(inputs_embeds=embeds, attention_mask=batch.attention_mask).logits.sum().backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_lora_adapters_are_read_with_their_base(folders: dict[str, Path], tmp_path: Path) -> None:
    for base in folders.values():
        plain = JanusForConditionalGeneration.from_pretrained(folders["final"])
        merged = write_adapter(tmp_path / base.name, plain, base)
        for load in (AutoModelForCausalLM.from_pretrained, MultiModalityCausalLM.from_pretrained):
            state = load(str(tmp_path / base.name), trust_remote_code=True).janus.state_dict()
            assert all(torch.equal(state[name], value) for name, value in merged.items())
        assert VLChatProcessor.from_pretrained(tmp_path / base.name).num_image_tokens == 16


def test_a_runs_folder_gives_its_final_model(folders: dict[str, Path]) -> None:
    run = folders["final"].parent
    model = MultiModalityCausalLM.from_pretrained(run)
    assert model.dtype == torch.float32 and VLChatProcessor.from_pretrained(run).num_image_tokens == 16


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_types(folder: Path, name: str) -> None:
    for value in (torch.bfloat16, "bfloat16"):
        assert AutoModelForCausalLM.from_pretrained(folder, **{name: value}).dtype == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(folder, **{name: "auto"}).dtype == torch.float32
    model = MultiModalityCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu")
    assert model.gen_vision_model.quant_conv.weight.dtype == torch.float32
    batch = VLChatProcessor.from_pretrained(folder)(prompt=LOOK, images=[noise(1)])
    assert model.prepare_inputs_embeds(**batch).dtype == torch.bfloat16, "pixels come in the model's type"


def test_the_language_configs_attention_counts(folder: Path) -> None:
    language_config = AutoConfig.from_pretrained(folder).language_config
    language_config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_pretrained(folder, language_config=language_config, trust_remote_code=True)
    assert model.language_model.config._attn_implementation == "eager"
    assert model.janus.model.vision_model.config._attn_implementation == "sdpa"
    config = AutoConfig.from_pretrained(folder)
    config.language_config._attn_implementation = "eager"
    model = MultiModalityCausalLM.from_pretrained(folder, config=config)
    assert model.language_model.config._attn_implementation == "eager"
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    assert model.language_model.config._attn_implementation == "eager"
    pad = MultiModalityCausalLM.from_pretrained(folder).language_model.config.pad_token_id
    assert model.language_model.config.pad_token_id == pad is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "half-precision"}, "dtype='half-precision' is not a type of torch"),
        ({"device_map": {"a": "cpu", "b": "cpu"}}, "the model stays on one device"),
        ({"device_map": "moon"}, "the model stays on one device"),
        (
            {"quantization_config": {"load_in_8bit": True}},
            r"from_pretrained\(quantization_config=...\) is not supported",
        ),
    ],
)
def test_options_that_it_does_not_have_are_one_line(folders: dict[str, Path], options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        MultiModalityCausalLM.from_pretrained(folders["official"], **options)
    assert "\n" not in str(error.value)


def test_an_incomplete_folder_and_wrong_masks_are_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to(folders["official"] / "config.json")
    with pytest.raises(UserError, match=r"model\.safetensors") as error:
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
    model = MultiModalityCausalLM.from_pretrained(folders["official"])
    batch = VLChatProcessor.from_pretrained(folders["official"])(prompt=LOOK, images=[noise(1)])
    batch.images_seq_mask[0, -2] = False
    with pytest.raises(UserError, match="images_seq_mask has 15 places, images_emb_mask 16") as error:
        model.prepare_inputs_embeds(**batch)


# ------------------------------------------------------------------------------------------------------ golden vectors


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "official_outputs.npz"))


@pytest.fixture(scope="module")
def official() -> MultiModalityCausalLM:
    """1.5 GB, with the real encoders."""
    return MultiModalityCausalLM.of(official_model())


def golden_pixels(*numbers: int) -> torch.Tensor:
    processor = VLMImageProcessor(384, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return processor([Image.fromarray(image(i)) for i in numbers]).pixel_values


@torch.inference_mode()
def test_golden_understanding(official: MultiModalityCausalLM, golden: dict[str, np.ndarray]) -> None:
    features = official.vision_model(golden_pixels(0, 1))
    assert relative(features[:, ::48, ::8], golden["vision_features"]) < 1e-5
    assert relative(official.aligner(features)[:, ::48], golden["aligned"]) < 1e-5
    words = prompts()[0]
    ids = torch.tensor([[*words[:5], *[-1] * 576, *words[5:]]])  # negative: replaced by an image
    embeds = official.prepare_inputs_embeds(
        input_ids=ids,
        pixel_values=golden_pixels(0)[None],
        images_seq_mask=ids < 0,
        images_emb_mask=torch.ones(1, 1, 576, dtype=torch.bool),
        attention_mask="ignored",
    )
    logits = official.language_model(inputs_embeds=embeds).logits
    assert relative(logits[0, -7:], golden["und_text_logits"]) < 1e-5


@torch.inference_mode()
def test_golden_drawing(official: MultiModalityCausalLM, golden: dict[str, np.ndarray]) -> None:
    codes = torch.from_numpy(golden["vq_ids"])
    images = official.prepare_gen_img_embeds(codes)
    assert relative(images[:, ::48], golden["gen_embeds"]) < 1e-5
    rows = torch.tensor([prompts()[1]] * 2)
    rows[1, 1:-1] = PAD
    words = official.language_model.get_input_embeddings()(rows.int())
    embeds = torch.cat([words, images[:1].expand(2, -1, -1)], dim=1)
    hidden = official.language_model.model(inputs_embeds=embeds, use_cache=True).last_hidden_state
    conditional, without = official.gen_head(hidden[:, len(rows[0]) - 1 : -1])
    assert relative(conditional[::96, ::32], golden["gen_logits"]) < 1e-5
    assert relative((without + 5 * (conditional - without))[::96, ::32], golden["cfg_logits_w5"]) < 1e-5


@torch.inference_mode()
def test_golden_codes(official: MultiModalityCausalLM, golden: dict[str, np.ndarray]) -> None:
    quant, losses, (perplexity, encodings, ids) = official.gen_vision_model.encode(golden_pixels(0, 4))
    assert losses == (None, None, None) and perplexity is encodings is None
    clear = golden["vq_margin"].ravel() > 1e-4
    assert np.array_equal(ids.numpy()[clear], golden["vq_ids"].ravel()[clear])
    assert quant.shape == (2, 8, 24, 24)
    torch.testing.assert_close(quant.norm(dim=1), torch.ones(2, 24, 24))
    decoded = official.gen_vision_model.decode_code(torch.from_numpy(golden["vq_ids"]).int(), shape=[2, 8, 24, 24])
    assert relative(decoded[:, :, ::16, ::16], golden["vq_decoded"]) < 1e-5
