"""A script as people write them for DeepSeek's package: asks about images, alone and in a batch, and draws.

    python janus_script.py MODEL ASKED.json OUT.npz

It is run as it stands with the official package, and with janus_train.official after its import lines are changed (`ported`
in tests/official/conftest.py). ASKED.json: {"dtype", "new_tokens", "prompt", "number", "conversations": [[turn, ...], ...]}.
OUT.npz has every array that it came across.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from janus.models import MultiModalityCausalLM, VLChatProcessor
from janus.utils.io import load_pil_images
from transformers import AutoConfig, AutoModelForCausalLM

model_path, asked_path, out_path = sys.argv[1:]
asked = json.loads(Path(asked_path).read_text(encoding="utf-8"))

language_config = AutoConfig.from_pretrained(model_path).language_config
language_config._attn_implementation = asked["attention"]
processor: VLChatProcessor = VLChatProcessor.from_pretrained(model_path)
tokenizer = processor.tokenizer
model: MultiModalityCausalLM = AutoModelForCausalLM.from_pretrained(
    model_path, language_config=language_config, trust_remote_code=True
)
model = model.to(getattr(torch, asked["dtype"])).eval()
found = {}


def keep(name, tensor):
    found[name] = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()


def generate(batch, embeds, **how):
    return model.language_model.generate(
        inputs_embeds=embeds,
        attention_mask=batch.attention_mask,
        pad_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        max_new_tokens=asked["new_tokens"],
        use_cache=True,
        **how,
    )


@torch.inference_mode()
def ask(name, batch):
    for key in ("input_ids", "attention_mask", "pixel_values", "images_seq_mask", "images_emb_mask"):
        keep(f"{name}/{key}", batch[key])
    found[f"{name}/sft_format"] = np.array(batch["sft_format"])
    batch = batch.to(model.device, dtype=model.dtype)
    embeds = model.prepare_inputs_embeds(**batch)
    keep(f"{name}/embeds", embeds)
    keep(f"{name}/logits", model.language_model(inputs_embeds=embeds, attention_mask=batch.attention_mask).logits)
    greedy = generate(batch, embeds, do_sample=False)
    keep(f"{name}/greedy", greedy)
    torch.manual_seed(1)
    sampled = generate(
        batch, embeds, do_sample=True, temperature=0.8, top_p=0.95, output_logits=True, return_dict_in_generate=True
    )
    keep(f"{name}/sampled", sampled.sequences)
    keep(f"{name}/sampled_logits", torch.stack(sampled.logits))
    for row, ids in enumerate(greedy):
        print(batch["sft_format"][row], tokenizer.decode(ids.cpu().tolist(), skip_special_tokens=True))


@torch.inference_mode()
def draw(prompt, number, weight=5, temperature=1.0):
    turns = [{"role": "<|User|>", "content": prompt}, {"role": "<|Assistant|>", "content": ""}]
    text = processor.apply_sft_template_for_multi_turn_prompts(
        conversations=turns, sft_format=processor.sft_format, system_prompt=""
    )
    ids = torch.LongTensor(tokenizer.encode(text + processor.image_start_tag))
    rows = torch.zeros((2 * number, len(ids)), dtype=torch.int)
    for row in range(2 * number):
        rows[row, :] = ids
        if row % 2:
            rows[row, 1:-1] = processor.pad_id
    keep("draw/ids", rows)
    embeds = model.language_model.get_input_embeddings()(rows)
    codes = torch.zeros((number, processor.num_image_tokens), dtype=torch.int)
    torch.manual_seed(2)
    cache = None
    for step in range(processor.num_image_tokens):
        outputs = model.language_model.model(inputs_embeds=embeds, use_cache=True, past_key_values=cache)
        cache = outputs.past_key_values
        logits = model.gen_head(outputs.last_hidden_state[:, -1, :])
        conditional, unconditional = logits[0::2, :], logits[1::2, :]
        logits = unconditional + weight * (conditional - unconditional)
        if step in (0, 1, processor.num_image_tokens - 1):
            keep(f"draw/logits{step}", logits)
        code = torch.multinomial(torch.softmax(logits / temperature, dim=-1), num_samples=1)
        codes[:, step] = code.squeeze(dim=-1)
        embeds = model.prepare_gen_img_embeds(code.repeat(1, 2).view(-1)).unsqueeze(dim=1)
    keep("draw/codes", codes)
    side = int(processor.num_image_tokens**0.5)
    width = model.config.gen_vision_config.params.n_embed
    pixels = model.gen_vision_model.decode_code(codes.to(dtype=torch.int), shape=[number, width, side, side])
    keep("draw/pixels", pixels)
    quant, losses, info = model.gen_vision_model.encode(pixels.clamp(-1, 1))
    assert list(losses) == [None] * 3 and list(info[:2]) == [None] * 2
    keep("draw/quant", quant)
    keep("draw/encoded", info[2])
    print(f"drawn: {tuple(pixels.shape)}")


prepared = []
for number, conversation in enumerate(asked["conversations"]):
    images = load_pil_images(conversation)
    ask(f"ask{number}", processor(conversations=conversation, images=images, force_batchify=True))
    prepared.append(processor(conversations=conversation, images=images, force_batchify=False))
    assert len(prepared[-1]) == len(prepared[-1].input_ids)
ask("batch", processor.batchify(prepared))
draw(asked["prompt"], asked["number"])
np.savez(out_path, **found)
