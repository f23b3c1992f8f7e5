"""What the command lines of benchmarks that run a plan have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from janus_train.errors import UserError


def parse(parser: argparse.ArgumentParser, set_by_plan: Collection[str]) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """The options, and the words ``key=value`` wherever they stand; one whose key is set by the plan is refused."""
    overrides = tuple(word for word in sys.argv[1:] if "=" in word and not word.startswith("-"))
    options = parser.parse_args([word for word in sys.argv[1:] if word not in overrides])
    if options.jobs < 1:
        parser.error("--jobs: at least 1")
    for word in overrides:
        key = word.partition("=")[0].lstrip("+")
        if key in set_by_plan:
            parser.error(f"{word}: {key} is set by the plan")
    return options, overrides


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on")


def end(failed: list[str], out: Path) -> None:
    """Say how it ended; the exit code is 1 if a step failed."""
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    print(f"results: {out / 'results.jsonl'}; --page writes the page")
