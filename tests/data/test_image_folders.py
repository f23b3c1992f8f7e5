"""The images under a folder, in a fixed order; what is passed over is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_train.data import image_files
from janus_train.data.image_folders import files_under, images_under, unread_reason
from janus_train.data.unused import counting

FILES = ("b.png", "a.JPG", "deep/z.webp", "deep/deeper/a.png", "notes.txt", "NAMES", ".DS_Store", ".cache/x.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.png").write_bytes(b"")
    (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "root"


def test_images_come_in_order_and_all_else_is_counted(folder: Path) -> None:
    with counting() as unused:
        images = [path.relative_to(folder).as_posix() for path in images_under(folder)]
    assert images == ["a.JPG", "b.png", "deep/z.webp", "deep/deeper/a.png"]
    assert unused == {
        "files .txt": 1,
        "files without an ending": 1,
        "hidden files": 1,
        "hidden folders": 1,
        "links to folders": 1,
    }


def test_a_folder_that_is_not_there_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(files_under(tmp_path / "no"))


def test_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "_UNREADABLE", {"AVIF", "HEIF"})
    assert unread_reason("a/IMG_1.HEIC") == "files .heic (pip install pillow-heif)"
    assert unread_reason("a/x.avif", "members") == "members .avif (pip install 'pillow>=11.3')"
    assert unread_reason("a/._x.heic") == "hidden files"
    assert unread_reason("a/x.txt") == "files .txt"
