"""Where attacks take place: a folder with what comes from others, a place to write to, and a watch over all the rest."""

from __future__ import annotations

import faulthandler
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from janus_train.errors import UserError
from tests.helpers import Run, config_of

SECONDS = 60
"""For one way in; what hangs is cut off there, and a machine that is busy needs some of it."""
MORE_MEMORY = 3 << 30
"""Address space above what the test process has: a bomb is met long before the machine's end."""
SECRET = "root:x:0:0:the secret that lies outside"
MAX_LINE = 1500
"""Characters of a message: what comes from others may not fill the terminal."""
SMALL = (
    "batch.row_tokens=256",
    "batch.rows_per_step=2",
    "batch.micro_rows=2",
    "run.steps=2",
    "run.checkpoint_every=0",
    "run.cpu_threads=1",
    "data.lookahead=2",
    "data.num_workers=0",
)
"""A run of two steps at most."""


@dataclass
class Outcome:
    """How a way in ended: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of the refusal. Fails unless it is one, and names no place in the code."""
        errors = [line for line in self.err.split("\n") if line.startswith("error: ")]
        assert len(errors) == 1, f"{len(errors)} error lines: {self.err[-2000:]!r}"
        assert self.err.rstrip("\n").endswith(errors[0])
        return errors[0].removeprefix("error: ")


@dataclass
class Ground:
    """One attack's folder: ``data`` holds what comes from others, and only ``out`` may be written to."""

    root: Path
    run: Run

    def __post_init__(self) -> None:
        for folder in (self.data, self.out, self.outside):
            folder.mkdir()
        self.secret.write_text(SECRET)

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    @property
    def secret(self) -> Path:
        return self.outside / "secret.png"

    @property
    def marker(self) -> Path:
        """What code of the attacker's would leave."""
        return self.root / "code_ran"

    def command(self, *words: object) -> Outcome:
        """``janus-train`` with these words, under watch."""
        with self.watched():
            return Outcome(*self.run(*words))

    def train(self, *overrides: str) -> Outcome:
        """What ``train.py`` does with these overrides (its main turns a `UserError` into this line and code)."""
        from janus_train.train.run import run

        def trained() -> int:
            run(config_of(f"output_dir={self.out / 'run'}", *SMALL, *overrides))
            return 0

        return self.call(trained)

    def call(self, function: Callable[[], Any]) -> Outcome:
        """A function of the library, under watch; a `UserError` is what a command would print."""
        with self.watched():
            try:
                function()
            except UserError as error:
                return Outcome(1, "", f"error: {error}\n")
            return Outcome(0, "", "")

    def refuses(self, outcome: Outcome, line: str) -> None:
        """Asserts a refusal: its code, one line that matches ``line``, and nothing of the secret."""
        assert outcome.code in (1, 2), (outcome.code, outcome.out[-500:], outcome.err[-500:])
        found = outcome.line
        assert re.search(line, found), found
        assert len(found) < MAX_LINE, f"{len(found)} characters: {found[:300]}"
        self.is_clean(outcome)

    def reports(self, outcome: Outcome, line: str) -> None:
        """Asserts what ``verify`` does: exit code 1, and a line for the problem that matches ``line``."""
        assert outcome.code == 1, (outcome.code, outcome.out[-500:], outcome.err[-500:])
        lines = outcome.err.rstrip("\n").split("\n")
        assert len(lines) == 1 and re.search(line, lines[0]), outcome.err[-2000:]
        assert len(lines[0]) < MAX_LINE, f"{len(lines[0])} characters: {lines[0][:300]}"
        self.is_clean(outcome)

    def is_clean(self, outcome: Outcome) -> None:
        """Asserts that there is no traceback and nothing of the secret in what was said."""
        for said in (outcome.out, outcome.err):
            assert "Traceback" not in said, said[-3000:]
            assert SECRET not in said

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Bounds time and memory; afterwards nothing has run, and nothing was written but into ``out``."""
        before = self._others()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        handler = signal.signal(signal.SIGALRM, _too_long)
        faulthandler.dump_traceback_later(
            2 * SECONDS, exit=True, file=sys.__stderr__
        )  # C code that never looks at signals
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
            signal.signal(signal.SIGALRM, handler)
        assert not self.marker.exists(), "code from the data ran"
        assert self._others() == before, "something was written where nothing may be"

    def _others(self) -> dict[str, tuple[int, int]]:
        """Path -> mode and size of all that lies neither in ``out`` nor where indexes belong."""
        found = {}
        for place in (self.root, self.outside, self.root.parent):
            for path in place.iterdir():
                status = path.lstat()
                if path != self.root and path.parent != self.root:
                    found[os.fspath(path)] = (status.st_mode, status.st_size if not path.is_dir() else 0)
                elif path.parent == self.root:
                    found[os.fspath(path)] = (status.st_mode, 0)
        return found


def _too_long(*_: object) -> None:
    raise AssertionError(f"it takes more than {SECONDS} s")


def make_ground(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """In a folder of its own, which is also the working directory: relative paths of an attacker's begin there."""
    root = tmp_path / "ground"
    root.mkdir()
    ground = Ground(root, run)
    monkeypatch.chdir(ground.out)
    return ground
