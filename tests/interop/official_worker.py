"""What the official code (deepseek-ai/Janus) makes of an exported folder; run by the interpreter that has it installed.

    python official_worker.py EXPORT ASKED.json OUT

ASKED.json: {"conversations": [[turn, ...], ...], "prompts": [text, ...], "guidance": number, "new_tokens": number}, turns
as the official code takes them, with "images": [path, ...]. In OUT appear ``loading.json`` (what did not fit, by
transformers' words), ``answers.npz`` (its keys: `understand` and `draw`) and ``saved/``, a model of the same shape with
its own random bf16 weights, as the official classes save it.

Nothing of this project is imported here, and of the official package only what its own examples import.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from janus.models import MultiModalityCausalLM, VLChatProcessor
from janus.utils.io import load_pil_images
from transformers import AutoModelForCausalLM


def understand(model, processor, conversation: list[dict], new_tokens: int) -> dict[str, np.ndarray]:
    """ids (T,), pixels (n, 3, S, S), logits (T, V) of every position, answer: the greedy tokens until EOS."""
    images = load_pil_images(conversation)
    if images:
        batch = processor(conversations=conversation, images=images)
    else:  # the system prompt is for conversations with images
        prompt = processor.apply_sft_template_for_multi_turn_prompts(conversation, processor.sft_format, "")
        batch = processor(prompt=prompt, images=[])
    embeds = model.prepare_inputs_embeds(**batch)
    tokenizer, language = processor.tokenizer, model.language_model
    answer = language.generate(
        inputs_embeds=embeds,
        attention_mask=batch.attention_mask,
        pad_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        max_new_tokens=new_tokens,
        do_sample=False,
    )
    return {
        "ids": batch.input_ids[0].numpy(),
        "pixels": batch.pixel_values[0, : len(images)].numpy(),
        "logits": language(inputs_embeds=embeds, attention_mask=batch.attention_mask).logits[0].numpy(),
        "answer": answer[0].numpy(),
    }


def draw(model, processor, prompt: str, guidance: float) -> dict[str, np.ndarray]:
    """ids (T,), codes (P,): the likeliest at each step, guided (P, C): the logits they come from, image (S, S, 3)."""
    turns = [{"role": "<|User|>", "content": prompt}, {"role": "<|Assistant|>", "content": ""}]
    text = processor.apply_sft_template_for_multi_turn_prompts(turns, processor.sft_format, "")
    ids = torch.tensor(processor.tokenizer.encode(text + processor.image_start_tag))
    rows = ids.repeat(2, 1)  # the second is without its text
    rows[1, 1:-1] = processor.pad_id
    embeds, cache, guided = model.language_model.get_input_embeddings()(rows), None, []
    for _ in range(processor.num_image_tokens):
        step = model.language_model.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        conditional, without = model.gen_head(step.last_hidden_state[:, -1])
        guided.append(without + guidance * (conditional - without))
        embeds = model.prepare_gen_img_embeds(guided[-1].argmax().repeat(2))[:, None]
    codes = torch.stack(guided).argmax(-1)
    side = int(processor.num_image_tokens**0.5)
    width = model.config.gen_vision_config.params.n_embed
    decoded = model.gen_vision_model.decode_code(codes[None].int(), shape=[1, width, side, side])[0]
    image = ((decoded.permute(1, 2, 0) + 1) / 2 * 255).clamp(0, 255).to(torch.uint8)
    return {
        "ids": ids.numpy(),
        "codes": codes.numpy(),
        "guided": torch.stack(guided).numpy(),
        "picture": image.numpy(),
    }


def main(export: Path, asked: dict, out: Path) -> None:
    model, loading = AutoModelForCausalLM.from_pretrained(export, output_loading_info=True)
    assert type(model) is MultiModalityCausalLM and not model.training
    (out / "loading.json").write_text(json.dumps({name: list(found) for name, found in loading.items()}))
    processor = VLChatProcessor.from_pretrained(export)
    found = {}
    with torch.inference_mode():
        for number, conversation in enumerate(asked["conversations"]):
            seen = understand(model, processor, conversation, asked["new_tokens"])
            found |= {f"understand{number}/{name}": array for name, array in seen.items()}
        for number, prompt in enumerate(asked["prompts"]):
            drawn = draw(model, processor, prompt, asked["guidance"])
            found |= {f"draw{number}/{name}": array for name, array in drawn.items()}
    np.savez(out / "answers.npz", **found)
    torch.manual_seed(0)
    MultiModalityCausalLM(model.config).to(torch.bfloat16).save_pretrained(out / "saved", max_shard_size="200MB")
    processor.save_pretrained(out / "saved")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), Path(sys.argv[3]))
