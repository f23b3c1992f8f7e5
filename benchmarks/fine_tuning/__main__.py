"""Fine-tuning that hurts, and that does not: new objects are learned by several means, and old figures measured again.

    python -m benchmarks.fine_tuning [--arms ARM ...] [--seeds 0] [--jobs 1] [--out outputs/fine_tuning] [key=value ...]
    python -m benchmarks.fine_tuning --page      # write benchmarks/fine_tuning.md from the results

First the demonstration's three stages are trained without five of its objects (--model FOLDER takes such a model instead),
then each arm starts from the result. Each step is a command that a user could type, with one CPU thread, and is printed
before it runs; its output goes to OUT/steps/. What is done is not run again, so the command can be stopped and started.
Results: OUT/results.jsonl.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.ablations.command_line import end, errors_in_one_line, parse
from benchmarks.ablations.page import write
from benchmarks.ablations.plan import steps_of_stages
from benchmarks.ablations.run import prepare, run
from benchmarks.fine_tuning import page
from benchmarks.fine_tuning.plan import ARMS, SET_BY_PLAN, Settings, steps
from benchmarks.fine_tuning.recipes import recipes
from janus_train.paths import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fine_tuning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM", help=", ".join(ARMS)
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the fine-tuning (default 0)")
    parser.add_argument("--out", type=Path, default=Path("outputs/fine_tuning"))
    parser.add_argument("--jobs", type=int, default=1, help="steps at a time (default %(default)s)")
    parser.add_argument("--model", type=Path, help="a model that was trained without the new objects")
    parser.add_argument("--steps", type=int, nargs=3, metavar="N", help="steps of the stages (default: the demo's)")
    parser.add_argument(
        "--fine-tuning-steps", type=int, default=page.FINE_TUNING_STEPS, help="of an arm (default %(default)s)"
    )
    parser.add_argument("--num-prompts", type=int, default=page.NUM_PROMPTS, help="of each evaluation")
    parser.add_argument(
        "--num-questions", type=int, default=page.NUM_QUESTIONS, help="about old objects; half as many about new ones"
    )
    parser.add_argument(
        "--page", type=Path, nargs="?", const=ROOT / "benchmarks/fine_tuning.md", help="write the page and run nothing"
    )
    options, overrides = parse(parser, SET_BY_PLAN)
    if options.fine_tuning_steps < 1:
        parser.error("--fine-tuning-steps: at least 1")
    if options.model and not (options.model / "config.json").is_file():
        parser.error(f"--model {options.model}: no model is there (config.json is missing)")
    out = options.out if options.out.is_absolute() else ROOT / options.out
    with errors_in_one_line():
        if options.page:
            write(options.page, out / "results.jsonl", page.page, "benchmarks.fine_tuning")
            return
        settings = Settings(
            tuple(options.steps or steps_of_stages(overrides)),
            options.fine_tuning_steps,
            options.num_prompts,
            options.num_questions,
            str(options.model.absolute()) if options.model else None,
            overrides,
        )
        prepare(out, settings, recipes())
        end(run(steps(options.arms, options.seeds, out, settings), out, options.jobs), out)


if __name__ == "__main__":
    main()
