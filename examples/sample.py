"""Generate images and ask about them from Python, with a trained model of any size.

    python examples/sample.py outputs/tiny/stage3/final               # 4 seconds on two CPU cores
    python examples/sample.py deepseek-ai/Janus-Pro-1B --device cuda --prompt "a red apple on a table"

The first argument is a run's ``final/``, the folder of a model in transformers' or the official layout, or a hub id.
What is written to ``--out``: four images, ``grid.png`` with all of them, and one that transformers alone has generated
(from 5.18: its own ``generate`` makes no images in 5.17).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import transformers
from PIL import Image
from transformers import JanusForConditionalGeneration, JanusProcessor

from janus_train import LoadedModel, UserError, load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model's folder or hub id")
    parser.add_argument("--prompt", default="A large moose in the middle, on a blue background.")
    parser.add_argument("--question", default="What colour is the background?")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("outputs/sample"))
    options = parser.parse_intermixed_args()
    options.out.mkdir(parents=True, exist_ok=True)

    model = load_model(options.model, device=options.device)
    images = generate(model, options.prompt, options.out)
    chat(model, images[0], options.question)
    if transformers.__version__.startswith("5.17."):
        print("no transformers.png: transformers makes images by itself from 5.18")
    elif model.folder.is_dir():
        with_transformers_alone(model.folder, options.prompt, options.out / "transformers.png")
    print(f"images: {options.out}")


def generate(model: LoadedModel, prompt: str, out: Path) -> list[Image.Image]:
    """Four images of one prompt. An image depends on its prompt and its seed, not on the others of its batch."""
    images = model.generate(
        [prompt] * 4,
        seeds=[0, 1, 2, 3],
        guidance=3.0,  # left out: the model's own weight of classifier-free guidance; 1: none, in half the time
        temperature=1.0,  # left out: the model's own; 0: the likeliest code each time
    )
    width, height = images[0].size
    grid = Image.new("RGB", (2 * width, 2 * height))
    for number, image in enumerate(images):
        image.save(out / f"{number}.png")
        grid.paste(image, (number % 2 * width, number // 2 * height))
    grid.save(out / "grid.png")
    return images


def chat(model: LoadedModel, image: Image.Image, question: str) -> None:
    """Two turns. ``<image_placeholder>`` marks where the image is looked at; answers come in pieces while they are made."""
    messages = [{"role": "user", "content": f"<image_placeholder>\n{question}"}]
    answer = ""
    for piece in model.chat(messages, [image], max_new_tokens=40):
        print(piece, end="", flush=True)
        answer += piece
    print()
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "What else is there?"}]
    print("".join(model.chat(messages, [image], max_new_tokens=40)))


def with_transformers_alone(folder: Path, prompt: str, path: Path) -> None:
    """The same model without janus_train, as an application would use it."""
    processor = JanusProcessor.from_pretrained(folder)
    model = JanusForConditionalGeneration.from_pretrained(folder)
    text = processor.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
    inputs = processor(text=[text], generation_mode="image", return_tensors="pt")
    torch.manual_seed(0)
    with torch.no_grad():
        codes = model.generate(**inputs, generation_mode="image", do_sample=True)  # (1, codes of an image)
        pixels = model.decode_image_tokens(codes).permute(0, 3, 1, 2)  # (1, S, S, 3) -> (1, 3, S, S)
    decoded = processor.postprocess(list(pixels.float()), return_tensors="PIL.Image.Image")
    decoded["pixel_values"][0].save(path)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
