"""The papers' ablations in the small: trains the demonstration in variants, over several seeds, and evaluates each.

    python -m benchmarks.ablations [--seeds 0 1 2] [--arms ARM ...] [--jobs 2] [--out outputs/ablations] [key=value ...]
    python -m benchmarks.ablations --page        # write benchmarks/ablations.md from the results

Each step is a command that a user could type, with one CPU thread, and is printed before it runs; its output goes to
OUT/steps/. What is done is not run again, so the command can be stopped and started. Results: OUT/results.jsonl.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.ablations import page
from benchmarks.ablations.command_line import end, errors_in_one_line, parse
from benchmarks.ablations.plan import (
    ARMS,
    CLASS_IMAGES,
    SET_BY_PLAN,
    Settings,
    class_images_recipe,
    steps,
    steps_of_stages,
)
from benchmarks.ablations.run import prepare, run
from janus_train.paths import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM", help=", ".join(ARMS)
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/ablations"))
    parser.add_argument("--jobs", type=int, default=2, help="steps at a time (default %(default)s)")
    parser.add_argument("--steps", type=int, nargs=3, metavar="N", help="steps of the stages (default: the demo's)")
    parser.add_argument("--num-prompts", type=int, default=page.NUM_PROMPTS, help="held-out scenes to generate")
    parser.add_argument("--num-questions", type=int, default=page.NUM_QUESTIONS, help="questions on held-out scenes")
    parser.add_argument(
        "--page", type=Path, nargs="?", const=ROOT / "benchmarks/ablations.md", help="write the page and run nothing"
    )
    options, overrides = parse(parser, SET_BY_PLAN)
    out = options.out if options.out.is_absolute() else ROOT / options.out
    with errors_in_one_line():
        if options.page:
            page.write(options.page, out / "results.jsonl", page.page)
            return
        num_steps = tuple(options.steps or steps_of_stages(overrides))
        settings = Settings(num_steps, options.num_prompts, options.num_questions, overrides)
        prepare(out, settings, {CLASS_IMAGES: class_images_recipe(settings.overrides)})
        end(run(steps(options.arms, options.seeds, out, settings), out, options.jobs), out)


if __name__ == "__main__":
    main()
