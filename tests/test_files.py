"""Reading: an object, or an error of one line. Writing: whole or not there, and for those to read whom the umask lets."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from janus_train.errors import UserError
from janus_train.files import (
    os_errors_of_rust,
    read_json_object,
    read_json_object_if_any,
    read_yaml,
    refuse_lfs_pointer,
    staged_folder,
)
from tests.helpers import LFS_POINTER


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_folder_comes_whole_and_replaces(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with staged_folder(tmp_path / "a/b") as folder:
            (folder / text).write_text(text)
            assert not (tmp_path / "a/b" / text).exists()
        assert [path.name for path in (tmp_path / "a/b").iterdir()] == [text]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_others_stay_where_they_are_kept(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with staged_folder(tmp_path / "a/b", keep=True) as folder:
            (folder / text).write_text(text)
            (folder / "both").write_text(text)
    assert {path.name: path.read_text() for path in (tmp_path / "a/b").iterdir()} == {
        "one": "one",
        "two": "two",
        "both": "two",
    }
    with pytest.raises(OSError, match="full"), staged_folder(tmp_path / "a/b", keep=True) as folder:
        (folder / "three").write_text("3")
        raise OSError("full")
    assert {path.name for path in (tmp_path / "a/b").iterdir()} == {"one", "two", "both"}


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_nothing_is_left_of_what_failed(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(type(error)), staged_folder(tmp_path / "there/a/b/c") as folder:
        (folder / "one").write_text("1")
        raise error
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["there"]


def test_a_parent_with_anothers_files_stays(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), staged_folder(tmp_path / "a/b/c"):
        (tmp_path / "a/other").write_text("theirs")
        raise OSError("full")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["a", "a/other"]


def test_the_umask_says_who_may_read(tmp_path: Path, umask: None) -> None:
    """A model is often trained by one and read by others: safetensors alone would keep it to the one."""
    with staged_folder(tmp_path / "model") as folder:
        save_file({"x": torch.zeros(2)}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    assert modes == {0o640}


@pytest.mark.parametrize("text", ["{", "[1]", "\x00"])
def test_a_file_that_holds_no_json_object_is_a_users_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json is not a JSON object"):
        read_json_object(tmp_path / "a.json")


def test_a_missing_json_file_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    assert read_json_object_if_any(tmp_path / "a.json") == {}
    with pytest.raises(FileNotFoundError):
        read_json_object(tmp_path / "a.json")


def test_what_rust_says_of_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    for error in (Exception("No space left on device (os error 28)"), SafetensorError("I/O error: ... (os error 28)")):
        with pytest.raises(OSError, match="No space left on device") as found, os_errors_of_rust():
            raise error
        assert found.value.errno == errno.ENOSPC
    with pytest.raises(SafetensorError, match="a bug"), os_errors_of_rust():
        raise SafetensorError("a bug")


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    (tmp_path / "pointer.json").write_bytes(LFS_POINTER)
    for read in (read_json_object, read_json_object_if_any, read_yaml, refuse_lfs_pointer):
        with pytest.raises(
            UserError, match=r"pointer\.json is a git-lfs pointer, not the file itself: run git lfs pull"
        ):
            read(tmp_path / "pointer.json")
    refuse_lfs_pointer(tmp_path / "none", tmp_path)  # not there, a folder: who opens them says so
