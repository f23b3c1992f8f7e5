"""JSON lines: a newline alone ends one, a kill harms none, and a cut is where the steps say."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus_train.errors import UserError
from janus_train.jsonl import append_json_lines, json_line, read_json_lines, truncate_after, write_json_lines

HOSTILE = ("a\u2028b", "c\u2029d", "e\x85f", "g\nh", "i\x0b\x0c\x1cj", "half \ud800 pair", "\U0001f600 é")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_value_is_one_line_for_every_reader(tmp_path: Path, text: str) -> None:
    assert len(json_line({"key": text}).splitlines()) == 1
    append_json_lines(tmp_path / "a.jsonl", [{"key": text}, {"key": "next"}])
    assert read_json_lines(tmp_path / "a.jsonl") == [{"key": text}, {"key": "next"}]


def test_text_that_breaks_no_line_stays_as_it_is() -> None:
    assert json_line({"key": "é 图"}) == '{"key": "é 图"}\n'


def test_what_json_does_not_have_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        append_json_lines(tmp_path / "a.jsonl", [{"loss": float("nan")}])
    assert not (tmp_path / "a.jsonl").exists()


def test_separators_written_raw_by_others_end_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1, "key": "a\u2028b\x85c"}\n{"step": 2}\n{"step": 3}\n', encoding="utf-8")
    assert [line["step"] for line in read_json_lines(path)] == [1, 2, 3]
    truncate_after(path, 2)
    assert path.read_text(encoding="utf-8") == '{"step": 1, "key": "a\u2028b\x85c"}\n{"step": 2}\n'


def test_a_last_line_that_is_cut_short_is_left_out_and_one_before_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert read_json_lines(path) == []
    path.write_bytes(b'{"step": 1}\n{"st')
    assert read_json_lines(path) == [{"step": 1}]
    for damaged in (b'{"st', b"5", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(b'{"step": 1}\n' + damaged + b'\n{"step": 2}\n')
        with pytest.raises(UserError, match=r"a\.jsonl: line 2 is damaged"):
            read_json_lines(path)


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    for attempt in (read_json_lines, lambda path: append_json_lines(path, [{}]), lambda path: truncate_after(path, 1)):
        with pytest.raises(UserError, match=f"^{tmp_path} cannot be .*Is a directory$"):
            attempt(tmp_path)


@given(
    steps=st.lists(st.integers(1, 9), max_size=12).map(sorted),
    size=st.integers(0, 9000),
    tail=st.sampled_from([b"", b'{"step": 9', b"\0\0\0"]),
    step=st.integers(0, 10),
)
def test_a_cut_keeps_the_lines_up_to_the_step(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], size: int, tail: bytes, step: int
) -> None:
    """Of lines longer and shorter than what is read at once."""
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    text = [json_line({"step": s, "x": "y" * (size * s // 9)}).encode() for s in steps]
    path.write_bytes(b"".join(text) + tail)
    truncate_after(path, step)
    lines = sum(s <= step for s in steps)
    assert path.read_bytes() == b"".join(text[:lines])


def test_a_line_that_lacks_only_its_newline_is_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}')
    truncate_after(path, 2)
    append_json_lines(path, [{"step": 3}])
    assert [line["step"] for line in read_json_lines(path)] == [1, 2, 3]


def test_damage_among_the_kept_lines_is_no_reason_to_drop_those_after_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\ndamage\n{"step": 2}\n{"step": 3}\n')
    truncate_after(path, 2)
    assert path.read_bytes() == b'{"step": 1}\ndamage\n{"step": 2}\n'


def test_a_kill_in_the_cut_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    append_json_lines(path, ({"step": step} for step in range(1, 1000)))
    before = path.read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "ftruncate", killed)
        truncate_after(path, 500)
    assert path.read_bytes() == before
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "fsync", killed)
        truncate_after(path, 500)
    assert json.loads(path.read_bytes().splitlines()[-1]) == {"step": 500}
    assert before.startswith(path.read_bytes())


def test_a_cut_writes_nothing_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_json_lines(path, ({"step": step} for step in range(1, 100)))
    inode = path.stat().st_ino
    truncate_after(path, 50)
    assert path.stat().st_ino == inode and [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]
    stamp = path.stat().st_mtime_ns
    truncate_after(path, 50)
    assert path.stat().st_mtime_ns == stamp


def test_a_whole_file_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    write_json_lines(path, [{"n": 1}])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_json_lines(path, [{"n": 2}])
    assert read_json_lines(path) == [{"n": 1}]
