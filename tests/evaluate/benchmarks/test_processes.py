"""Two processes give what one gives, and a mistake ends both with one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from janus_train import cli
from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.processes import Processes
from janus_train.train import entry
from tests.evaluate.benchmarks.making import pope_rows, protocol_file, write_tsv
from tests.helpers import Run
from tests.processes import serving


def command(connection: Connection, words: Sequence[str]) -> None:
    """One process of ``janus-train``, which tells its exit code."""
    entry.LAUNCHER_S = 0.5  # there is none
    sys.argv = ["janus-train", *words]
    try:
        cli.main()
    except SystemExit as left:
        connection.send(left.code)


def codes_of(words: Sequence[object], log: Path) -> tuple[list[object], list[str]]:
    """The exit codes of two processes, and what each printed."""
    with serving(command, [str(word) for word in words], world_size=2, log=log) as ends:
        codes = [end.recv() if end.poll(100) else None for end in ends]
    return codes, [log.with_name(f"{log.name}-{rank}.log").read_text() for rank in range(2)]


def test_two_processes_write_what_one_writes(run: Run, random_base: Path, tmp_path: Path) -> None:
    write_tsv(tmp_path / "POPE.tsv", pope_rows(7))
    protocol = protocol_file(tmp_path / "short.yaml")
    words = ["benchmark", random_base, "--tasks", "pope", "--data", tmp_path, "--protocol", protocol, "--out"]
    assert run(*words, tmp_path / "one")[0] == 0
    codes, logs = codes_of([*words, tmp_path / "two", "--batch-size", 2], tmp_path / "log")
    assert codes == [0, 0], logs
    for name in ("answers.jsonl", "results.json"):
        assert (tmp_path / "two/pope" / name).read_text() == (tmp_path / "one/pope" / name).read_text()
    assert sorted(path.name for path in (tmp_path / "two/pope").iterdir()) == [
        "answers.jsonl",
        "manifest.json",
        "results.json",
    ]
    assert "pope (process 0 of 2): 4 of 4" in logs[0] and "Janus-1.3B" in logs[0]
    assert "pope" not in logs[1] and "Janus-1.3B" not in logs[1]
    codes, logs = codes_of([*words, tmp_path / "two", "--seed", 1], tmp_path / "again")
    assert (
        codes
        == [f"error: {tmp_path / 'two/pope'} was begun with another seed: give another --out, or delete that folder"]
        * 2
    )


def test_one_process_alone_waits_for_nobody() -> None:
    processes = Processes()
    processes.wait()
    with processes.meeting():
        pass
    with pytest.raises(UserError, match="a mistake"), processes.meeting():
        raise UserError("a mistake")
