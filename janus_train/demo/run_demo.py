"""Runs the three stages end to end on the embedded images: train, evaluate, report.  ``make demo`` runs this.

    OUT/stage1  OUT/stage2  OUT/stage3   runs' folders     OUT/evaluation   OUT/report.html

Each step is the command that a user would type. Started again, it resumes where it was stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from janus_train.paths import ROOT

BIN = Path(sys.executable).parent


def command(*words: str | Path) -> None:
    """Print and run a command of the project; exit with its exit code if it fails."""
    line = [str(word) for word in words]
    print(f"\n$ {Path(line[0]).name} {' '.join(line[1:])}", flush=True)
    code = subprocess.run(line, cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--num-prompts", type=int, default=200, help="held-out scenes to generate")
    parser.add_argument("--num-questions", type=int, default=400, help="questions on held-out scenes")
    parser.add_argument("overrides", nargs="*", help="options for every stage, such as run.steps=10")
    options = parser.parse_args()
    out = options.out if options.out.is_absolute() else ROOT / options.out

    start_time = time.monotonic()
    for stage in (1, 2, 3):
        words = (f"+stage={stage}", f"output_dir={out / f'stage{stage}'}", *options.overrides)
        command(
            BIN / "accelerate", "launch", "--quiet", "--config_file", "launch/accelerate/cpu.yaml", "train.py", *words
        )
    training_end = time.monotonic()
    numbers = ("--num-prompts", str(options.num_prompts), "--num-questions", str(options.num_questions))
    command(BIN / "janus-train", "evaluate", out / "stage3" / "final", "--out", out / "evaluation", *numbers)
    command(BIN / "janus-train", "report", out)
    end_time = time.monotonic()
    print(
        f"\ntraining took {(training_end - start_time) / 60:.1f} min, evaluation and report {(end_time - training_end) / 60:.1f} min"
    )
    print(f"report: {out / 'report.html'}")


if __name__ == "__main__":
    main()
