"""Fine-tune the tiny model on your own images: prepare, check, look, train, and compare before and after.

    python examples/finetune_own_images.py                         # 24 example images drawn on the spot, 75 seconds
    python examples/finetune_own_images.py --images photos --steps 1000 --out outputs/photos

Times are for two CPU cores. ``--images`` names a folder with your images and two files in JSON Lines, paths relative to
the folder:

    captions.jsonl     {"image": "001.png", "caption": "A red circle."}
    questions.jsonl    {"image": "001.png", "conversations": [{"from": "human", "value": "<image>\\nWhat colour is it?"},
                                                              {"from": "gpt", "value": "Red."}]}

Captions teach the model to generate the images, questions to answer about them. The tiny model's VQ tokenizer is made for
the scenes of the demonstration: of other images it draws blurs. Every step is a command that can be
typed as it is printed. What is written to ``--out``, 40 MB:

    images/            the example images, unless --images is given
    captions/  questions/   the same as shards
    recipe.yaml        the mixture
    rows.html          what the first step is trained on
    untrained/  run/   the runs; run/final is the model, run/report.html its curves
    before_after.png   the same prompts, before in the upper row
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from janus_train import UserError

if TYPE_CHECKING:
    from janus_train import LoadedModel

PROJECT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent  # where janus-train and accelerate are, whether or not the environment is active

COLOURS = {
    "red": "#d02030",
    "green": "#20a040",
    "blue": "#2050d0",
    "yellow": "#f0c010",
    "purple": "#8030b0",
    "black": "#202020",
}
SHAPES = ("circle", "square", "triangle", "cross")

RECIPE = """\
name: own-images
licence: mine
sources:
  - {name: talks, kind: understanding, type: shards, template: conversation, weight: 1, paths: [questions/*.tar]}
  - {name: drawings, kind: generation, type: shards, template: request_to_image, weight: 1, paths: [captions/*.tar]}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with images, captions.jsonl and questions.jsonl")
    parser.add_argument("--out", type=Path, default=Path("outputs/own_images"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument(
        "--init-from", help="folder of a trained tiny model; default: the base in data_recipes/demo/base"
    )
    parser.add_argument("overrides", nargs="*", help="further options of train.py, such as optim.learning_rate=5e-4")
    options = parser.parse_intermixed_args()
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)

    # 1. The data: images with captions, and questions about them.
    images = options.images or draw_examples(out / "images")
    for name in ("captions.jsonl", "questions.jsonl"):
        if not (images / name).is_file():
            sys.exit(f"error: {images / name} is missing: write one line of JSON per image (see --help)")

    # 2. Shards: seconds for some hundred images. Run again, prepare keeps what it has made.
    command(
        "janus-train", "prepare", "captions", images / "captions.jsonl", "--images", images, "--out", out / "captions"
    )
    command(
        "janus-train", "prepare", "conversations", images / "questions.jsonl", "--images", images, "--out", out / "questions"
    )  # fmt: skip

    # 3. The recipe says what is trained on, and in which form.
    recipe = out / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")

    # 4. Is every sample usable, and what will the first step see? Neither needs a model or a GPU.
    training = ["+stage=3", f"data.recipe={recipe}", "ratio.text=0", f"run.steps={options.steps}", *options.overrides]
    if options.init_from:
        training.append(f"init_from={options.init_from}")
    command("janus-train", "verify", recipe)
    command("janus-train", "inspect", *training, "--html", out / "rows.html")

    from janus_train import load_model  # loads torch and transformers: not before they are needed

    # 5. Before: the given model. The shipped base has no adaptors and no image head, so that it can do nothing yet;
    #    one step adds them, with random values.
    start = options.init_from
    if start is None:
        train(*training, "run.steps=1", f"output_dir={out / 'untrained'}")
        start = out / "untrained" / "final"
    prompts, question = examples_of(images)
    before = try_out(load_model(start), prompts, question, images)

    # 6. Training: 10 seconds per 100 steps. Run again, a finished run is left as it is and an unfinished one resumes.
    train(*training, f"output_dir={out / 'run'}")

    # 7. After.
    after = try_out(load_model(out / "run" / "final"), prompts, question, images)
    save_grid([before, after], out / "before_after.png")
    print(f"\nmodel: {out / 'run' / 'final'}\nimages: {out / 'before_after.png'}")


def draw_examples(folder: Path) -> Path:
    """24 images of shapes with their captions and questions."""
    folder.mkdir(exist_ok=True)
    captions, questions = [], []
    for colour, value in COLOURS.items():
        for shape in SHAPES:
            name = f"{colour}_{shape}.png"
            draw_shape(shape, value).save(folder / name)
            captions.append({"image": name, "caption": f"A {colour} {shape}."})
            for words, answer in (("What colour is it?", colour), ("Which shape is it?", shape)):
                turns = [
                    {"from": "human", "value": f"<image>\n{words}"},
                    {"from": "gpt", "value": f"{answer.capitalize()}."},
                ]
                questions.append({"image": name, "conversations": turns})
    for name, lines in (("captions.jsonl", captions), ("questions.jsonl", questions)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def draw_shape(shape: str, colour: str) -> Image.Image:
    image = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse((24, 24, 104, 104), fill=colour)
    elif shape == "square":
        draw.rectangle((28, 28, 100, 100), fill=colour)
    elif shape == "triangle":
        draw.polygon([(64, 20), (108, 100), (20, 100)], fill=colour)
    else:
        draw.rectangle((52, 20, 76, 108), fill=colour)
        draw.rectangle((20, 52, 108, 76), fill=colour)
    return image


def examples_of(images: Path) -> tuple[list[str], dict]:
    """Four captions to generate from, spread over the file, and the first question."""
    with (images / "captions.jsonl").open(encoding="utf-8") as file:
        captions = [json.loads(line)["caption"] for line in file if line.strip()]
    with (images / "questions.jsonl").open(encoding="utf-8") as file:
        question = json.loads(next(line for line in file if line.strip()))
    return captions[:: max(1, len(captions) // 4)][:4], question


def try_out(model: LoadedModel, prompts: list[str], question: dict, images: Path) -> list[Image.Image]:
    """Prints the model's answer to the question, and returns an image for each prompt."""
    words, expected = (turn["value"] for turn in question["conversations"][:2])
    message = {"role": "user", "content": words.replace("<image>", "<image_placeholder>")}
    with Image.open(images / question["image"]) as image:
        answer = "".join(model.chat([message], [image], max_new_tokens=30))
    print(
        f"\n{question['image']}: {words.removeprefix('<image>').strip()} {answer!r} (in the data: {expected!r})",
        flush=True,
    )
    return model.generate(prompts, seeds=range(len(prompts)))


def save_grid(rows: list[list[Image.Image]], path: Path) -> None:
    width, height = rows[0][0].size
    grid = Image.new("RGB", (width * len(rows[0]), height * len(rows)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            grid.paste(image, (x * width, y * height))
    grid.save(path)


def train(*overrides: str) -> None:
    # The tiny model needs no GPU. For a larger one choose another file of launch/accelerate/.
    config_file = PROJECT / "launch/accelerate/cpu.yaml"
    command("accelerate", "launch", "--quiet", "--config_file", config_file, PROJECT / "train.py", *overrides)


def command(*words: str | Path) -> None:
    """Print and run a command; stop with its exit code if it fails."""
    program, *arguments = map(str, words)
    print(f"\n$ {shlex.join([program, *arguments])}", flush=True)
    code = subprocess.run([BIN / program, *arguments], check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
