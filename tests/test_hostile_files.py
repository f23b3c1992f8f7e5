"""Files that come from anybody, at every way in: pipes, values nested without end, aliases, tars that lie; one line each.

What hangs fails by the time limit of the test, which sends the process a signal.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from janus_train.compose import compose_values
from janus_train.data.recipe import read_recipe
from janus_train.data.shards.index import index_path
from janus_train.data.shards.scan import scan
from janus_train.data.sources.jsonl import ImageFolderSource, JsonlSource
from janus_train.data.sources.shards import ShardSource
from janus_train.datatools.prepare.classes import Classes
from janus_train.datatools.prepare.formats.webdataset import _groups
from janus_train.errors import UserError
from janus_train.infer.prompts import collect_prompts
from janus_train.interop.model_folder import open_folder
from janus_train.train.monitor.log import set_up_logging
from tests.helpers import Run, encoded, make_shard, plain_image

LIMIT_S = 10
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
DEEP = "[" * 100_000
HOSTILE = "[bold]red[/x] \x1b[2J\u202e"


@contextmanager
def in_time() -> Iterator[None]:
    def too_late(*_: object) -> None:
        raise AssertionError(f"it hangs, after {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refusal(attempt: Callable[[], object]) -> str:
    """The one line by which ``attempt`` refuses."""
    with in_time(), pytest.raises(UserError) as error:
        attempt()
    said = str(error.value)
    assert "\n" not in said and len(said) < 600
    return said


def model_in(folder: Path) -> Path:
    """The folder of a model whose config.json is the file in question."""
    (folder / "model").mkdir()
    (folder / "file").rename(folder / "model/config.json")
    return folder / "model"


def classes_in(folder: Path) -> None:
    (folder / "root/a").mkdir(parents=True)
    (folder / "root/a/a.png").write_bytes(encoded(plain_image()))
    ImageFolderSource(folder / "root", "../file")


def index_in(folder: Path) -> None:
    tar = make_shard(folder / "a.tar", {"a.json": {"text": "a"}})
    (folder / "file").rename(index_path(tar))
    ShardSource([tar])


READERS: dict[str, Callable[[Path], object]] = {
    "a recipe": lambda folder: read_recipe(folder / "file"),
    "prompts": lambda folder: collect_prompts([], folder / "file"),
    "classes": lambda folder: Classes(str(folder / "file")),
    "class names": classes_in,
    "JSON lines": lambda folder: JsonlSource([folder / "file"]),
    "a model": lambda folder: open_folder(model_in(folder)),
    "an index": index_in,
}


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_is_refused_and_holds_nothing_up(tmp_path: Path, reader: str) -> None:
    os.mkfifo(tmp_path / "file")
    said = refusal(lambda: READERS[reader](tmp_path))
    assert "it is a device or a pipe, not a regular file" in said


@pytest.mark.parametrize("reader", ["a recipe", "class names", "a model", "classes"])
def test_values_without_end_are_refused(tmp_path: Path, reader: str) -> None:
    (tmp_path / "file").write_text(DEEP)
    assert re.search("nested too deeply|maximum recursion depth", refusal(lambda: READERS[reader](tmp_path)))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (BOMB, "its aliases (*name) stand for more than 100,000 values"),
        (BOMB.replace("[x, x]", "{x: y}").replace("[*", "{<<: [*").replace("]\n", "]}\n"), "aliases"),
        ("a: &a [*a]", "one of its aliases (*name) stands for what it is in"),
        ("- " * 100_000, "nested too deeply"),
        ("sources: 2024-99-99", "month must be in"),
        ("sources: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("name: \x00", "not valid YAML"),
        (f"name: {'x' * 1_000_000}\nsources: [{{}}]", "licence: Field required"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_a_recipe_is_plain_yaml(tmp_path: Path, content: str | bytes, what: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = refusal(lambda: read_recipe(path))
    assert said.startswith(str(path)) and what in said


def test_an_option_without_end_is_refused() -> None:
    refusal(lambda: compose_values(["+stage=1", f"train_parts={'[' * 3000}{']' * 3000}"]))


def test_pipes_in_a_folder_of_tars(run: Run, tmp_path: Path) -> None:
    make_shard(tmp_path / "a.tar", {"a.json": {"text": "a"}}, index=False)
    os.mkfifo(tmp_path / "b.tar")
    with in_time():
        assert run("index", tmp_path) == (2, "", f"error: {tmp_path / 'b.tar'}: is not a regular file\n")


def lying_tar(path: Path, size: int, kind: bytes) -> Path:
    info = tarfile.TarInfo("a.jpg")
    info.size, info.type = size, kind
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"abc" * 1000)
    return path


@pytest.mark.parametrize("size", [2**62, 2**80, 5000])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_that_claims_more_than_it_has_says_so(tmp_path: Path, size: int, kind: bytes) -> None:
    tar = lying_tar(tmp_path / "a.tar", size, kind)
    for attempt in (lambda: scan(tar), lambda: list(_groups(str(tar), 0))):
        said = refusal(attempt)
        assert said.startswith(str(tar)) and "memory" not in said.lower() and "Errno" not in said
        if kind == tarfile.REGTYPE:
            assert f"its member 'a.jpg' claims {size:,} bytes, the whole tar has 3,512" in said


def test_lines_of_text_end_at_newlines_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffa dog\u2028in the \x85sun\r\n\n  two cats\u2029 \n".encode())
    assert collect_prompts([], path) == ["a dog\u2028in the \x85sun", "two cats"]
    path.write_text("n01 tench\u2028, Tinca\nn02 cock\n", encoding="utf-8")
    assert [Classes(str(path)).name(key) for key in ("0", "n02")] == ["tench", "cock"]


def test_names_and_keys_of_data_act_on_no_terminal(run: Run, tmp_path: Path) -> None:
    """A source's name with rich's markup, a file's name with an escape sequence and a right-to-left override."""
    (tmp_path / f"{HOSTILE.replace('/', '|')}.jsonl").write_text('{"text": ""}\n{"text": "fine"}\n')
    source = "{name: '[bold]red[/x]', kind: text, type: jsonl, template: text, weight: 1, paths: ['*.jsonl']}"
    (tmp_path / "r.yaml").write_text(f"name: r\nlicence: none\nsources: [{source}]\n")
    code, printed, told = run("verify", tmp_path / "r.yaml")
    assert code == 1 and "[bold]red[/x]" in printed
    assert told == "[bold]red[/x]: [bold]red[|x] \\x1b[2J\\u202e.jsonl:1: field 'text' is empty\n"
    for text in (printed, told):
        assert "\x1b" not in text and "\u202e" not in text


def test_errors_and_logs_show_text_that_is_not_ours_as_text(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, told = run("report", tmp_path / HOSTILE)
    assert code == 2 and told.count("\n") == 1 and r"[bold]red[/x] \x1b[2J\u202e" in told
    set_up_logging(0)
    logging.getLogger("janus_train.test").warning(f"  {HOSTILE}\nstage 2 starts from nowhere")
    assert capsys.readouterr().err == "warning:   [bold]red[/x] \\x1b[2J\\u202e stage 2 starts from nowhere\n"


def test_what_a_model_says_acts_on_no_terminal(run: Run, random_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("janus_train.infer.load.stream_answer", lambda *_, **__: iter(["one\n", HOSTILE]))
    code, printed, _ = run("chat", random_base, "--prompt", "Hello")
    assert code == 0 and printed == "one\n[bold]red[/x] \\x1b[2J\\u202e\n"


def test_a_full_disk_is_one_line_for_every_command(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("janus_train.report.build", full)
    code, _, told = run("report", tmp_path)
    assert (code, told) == (2, "error: No space left on device: make room, or choose another disk\n")
    monkeypatch.setattr("janus_train.report.build", lambda _: (tmp_path / "none").read_text())
    with pytest.raises(FileNotFoundError):
        run("report", tmp_path)
