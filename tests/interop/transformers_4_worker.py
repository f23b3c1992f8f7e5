"""What transformers 4 makes of a model's folder; run with a transformers 4 in front of this environment's.

    python transformers_4_worker.py ASKED.json OUT.npz

ASKED.json: {"model": folder, "official": folder, "words": text, "conversation": turns for the chat template, "image": path,
"prompt": text, "steps": number, "image_tokens": number}. Nothing of this project is imported here.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoTokenizer, JanusForConditionalGeneration, JanusProcessor, PreTrainedTokenizerFast


def main(asked: dict, out: Path) -> None:
    folder = asked["model"]
    found = {"version": np.asarray(transformers.__version__)}
    for number, kind in enumerate((AutoTokenizer, PreTrainedTokenizerFast)):
        for name in ("model", "official"):
            found[f"words/{name}/{number}"] = np.asarray(kind.from_pretrained(asked[name])(asked["words"]).input_ids)
    model, loading = JanusForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    model.eval()
    assert not any(loading.values()), loading
    processor = JanusProcessor.from_pretrained(folder)
    processor.num_image_tokens = asked["image_tokens"]  # 576 in transformers 4, whatever the files say

    text = processor.apply_chat_template(asked["conversation"], add_generation_prompt=True)
    given = processor(text=text, images=[Image.open(asked["image"])], return_tensors="pt")
    found["ids"], found["pixels"] = given.input_ids[0].numpy(), given.pixel_values[0].numpy()
    with torch.no_grad():
        found["logits"] = model(**given).logits[0].numpy()
    answered = model.generate(**given, generation_mode="text", do_sample=False, max_new_tokens=asked["steps"])
    found["answer"] = answered[0, given.input_ids.shape[1] :].numpy()

    text = processor.apply_chat_template([{"role": "user", "content": asked["prompt"]}], add_generation_prompt=True)
    given = processor(text=[text], generation_mode="image", return_tensors="pt")
    found["prompt"] = given.input_ids[0].numpy()
    codes = model.generate(**given, generation_mode="image", do_sample=False, max_new_tokens=asked["image_tokens"])
    found["codes"] = codes[0].numpy()
    with torch.no_grad():
        decoded = model.decode_image_tokens(codes).permute(0, 3, 1, 2)
    shown = processor.postprocess(list(decoded.float()), return_tensors="PIL.Image.Image")["pixel_values"][0]
    found["image"] = np.asarray(shown)
    config = model.generation_config
    found["settings"] = np.asarray([config.guidance_scale, config.temperature])
    np.savez(out, **found)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
