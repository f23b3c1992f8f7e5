"""A template of one's own: a record layout that none of the shipped templates reads.

    python examples/custom_template.py                      # 5 seconds on two CPU cores

The data are pairs of images, with a sentence that says what changed between them, as JSON Lines:

    {"images": ["circle-green-before.png", "circle-green-after.png"], "change": "The circle becomes blue."}

The template below makes of them ``<image><sentence><image>``, where the model learns to generate the second image. The
script writes eight such pairs, prints the packed rows of the first step, and trains two steps. What is written to
``--out``: ``pairs.jsonl``, ``images/``, ``recipe.yaml``, ``rows.html`` and ``run/``.

For runs from the command line this module is a plug-in; type this in the project's folder:

    accelerate launch train.py plugins=[examples.custom_template] +stage=3 data.recipe=outputs/custom_template/recipe.yaml \\
        ratio.understanding=0 ratio.text=0
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from janus_train import UserError, compose_config
from janus_train.data.special_tokens import EOS
from janus_train.data.templates import register_template
from janus_train.data.types import BadSample, Record, Segment

COLOURS = ("red", "green", "blue", "orange")

RECIPE = """\
name: changes
licence: mine
sources:
  - {name: changes, kind: generation, type: jsonl, template: changed_image, weight: 1, paths: [pairs.jsonl], folder: images}
"""


@register_template(reads="change", reads_codes=True)  # recipes find it by the function's name
def changed_image(record: Record) -> list[Segment]:
    """``<image><change><image>``, with loss on the second image alone."""
    change = record.fields.get("change")
    if not isinstance(change, str) or not change.strip():
        raise BadSample(
            "field 'change' is missing or empty"
        )  # the sample is quarantined, and another one takes its place
    if len(record.images) != 2:
        raise BadSample(f"{len(record.images)} images where the template takes 2")
    before, after = record.images
    codes = record.codes[1] if record.codes else None  # VQ codes, if `janus-train tokenize` has stored them in a shard
    return [
        Segment("image_in", image=before),
        Segment("text", change),  # no loss: at inference the sentence is given
        Segment("image_out", image=after, codes=codes),
        Segment("text", EOS),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/custom_template"))
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("overrides", nargs="*", help="further options of train.py, such as batch.row_tokens=256")
    options = parser.parse_intermixed_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    write_pairs(out)
    (out / "recipe.yaml").write_text(RECIPE, encoding="utf-8")

    config = compose_config(
        [
            "+stage=3",
            f"data.recipe={out / 'recipe.yaml'}",
            "ratio.understanding=0",  # the recipe has nothing but generation
            "ratio.text=0",
            f"run.steps={options.steps}",
            f"output_dir={out / 'run'}",
            *options.overrides,
        ]
    )

    # What the first step sees: `janus-train inspect`. The page shows the images, the tokens, and which carry a loss.
    from janus_train.datatools.inspect.run import inspect_run

    def show(rows: list[dict]) -> bool:
        for row in rows:
            samples = ", ".join(f"{sample['key']} ({sample['tokens']} tokens)" for sample in row["samples"])
            print(f"step {row['step']}, row {row['row']}: {samples}", flush=True)
        return True

    inspect_run(config, 1, 1, show, html=out / "rows.html")

    from janus_train.train.run import run  # loads torch, which a plug-in should not when it is imported

    print(f"model: {run(config) / 'final'}")


def write_pairs(folder: Path) -> None:
    """Eight pairs: a circle or a square that changes its colour."""
    (folder / "images").mkdir(exist_ok=True)
    lines = []
    for shape in ("circle", "square"):
        for number, colour in enumerate(COLOURS):
            new = COLOURS[(number + 1) % len(COLOURS)]
            names = [f"{shape}-{colour}-before.png", f"{shape}-{colour}-after.png"]
            for name, fill in zip(names, (colour, new), strict=True):
                draw_shape(shape, fill).save(folder / "images" / name)
            lines.append({"images": names, "change": f"The {shape} becomes {new}."})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def draw_shape(shape: str, colour: str) -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "circle" else draw.rectangle)((14, 14, 50, 50), fill=colour)
    return image


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
