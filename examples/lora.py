"""Fine-tune a trained model with LoRA, and use both results: the merged model and the adapters alone.

    python examples/lora.py outputs/tiny/stage3/final                                    # half a minute on two CPU cores
    python examples/lora.py outputs/tiny/stage3/final --recipe outputs/own_images/recipe.yaml --steps 300

The first argument is the folder of a model to start from: the quick start's result, or that of finetune_own_images.py
(``outputs/own_images/run/final``). Without ``--recipe`` it trains on the embedded images. What is written to ``--out``:

    final/         the merged model, which loads like any other
    adapter/       the adapters alone, 0.6 MB, to be put beside the start's weights by peft
    generated.png  one image per prompt: from the start, from final/, and from the start with adapter/
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image

from janus_train import LoadedModel, UserError, compose_config, load_model
from janus_train.train.run import run

PROMPTS = ("A large moose in the middle, on a blue background.", "A red circle.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained tiny model")
    parser.add_argument("--recipe", default="data_recipes/demo/stage3.yaml")
    parser.add_argument("--out", type=Path, default=Path("outputs/lora"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("overrides", nargs="*", help="further options of train.py, such as peft.rank=32")
    options = parser.parse_intermixed_args()

    before = load_model(options.model)  # first of all, so that a wrong folder is noticed at once

    # The same as: accelerate launch train.py +stage=3 +peft=lora init_from=... data.recipe=... output_dir=... run.steps=...
    # Everything is frozen (configs/peft/lora.yaml: train_parts is empty); beside the language model's linear layers
    # adapters of rank 16 train. Adapters take a higher rate than whole parts.
    config = compose_config(
        [
            "+stage=3",
            "+peft=lora",
            "peft.rank=16",
            "optim.learning_rate=3e-3",
            f"init_from={options.model}",
            f"data.recipe={options.recipe}",
            "ratio.text=0",  # a recipe of one's own may have no texts
            f"run.steps={options.steps}",
            f"output_dir={options.out}",
            *options.overrides,
        ]
    )
    folder = run(config)

    # final/ is a whole model: the adapters are merged into its weights.
    merged = load_model(folder / "final")

    # adapter/ is a few percent of its size, and belongs to the weights that it was trained beside.
    janus = PeftModel.from_pretrained(load_model(options.model).janus, folder / "adapter").merge_and_unload()
    adapted = dataclasses.replace(before, janus=janus.eval())
    print(f"adapter/: {size(folder / 'adapter') / 1e6:.1f} MB, final/: {size(folder / 'final') / 1e6:.1f} MB")
    print(f"largest difference of their weights: {largest_difference(merged, adapted):.1e}")

    save_grid([generate(model) for model in (before, merged, adapted)], folder / "generated.png")
    print(f"images: {folder / 'generated.png'}")


def generate(model: LoadedModel) -> list[Image.Image]:
    return model.generate(PROMPTS, seeds=range(len(PROMPTS)))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def largest_difference(one: LoadedModel, other: LoadedModel) -> float:
    """Rounding alone: the adapters are merged in fp32 both times."""
    weights = other.janus.state_dict()
    return max(
        float((tensor - weights[name]).abs().max())
        for name, tensor in one.janus.state_dict().items()
        if tensor.dtype == torch.float32
    )


def save_grid(rows: list[list[Image.Image]], path: Path) -> None:
    width, height = rows[0][0].size
    grid = Image.new("RGB", (width * len(rows[0]), height * len(rows)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            grid.paste(image, (x * width, y * height))
    grid.save(path)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
