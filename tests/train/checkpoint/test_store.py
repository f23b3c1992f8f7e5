"""Which folder is a checkpoint: damaged is skipped and named, unreadable ends the search, and nothing is deleted by it."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from janus_train.errors import UserError
from janus_train.train.checkpoint import store
from janus_train.train.checkpoint.store import publish, remove_superseded, set_aside

FILES = {"rank-00000.safetensors": b"weights", "state.json": b"{}"}


def save(run: Path, step: int) -> Path:
    """A valid checkpoint, as far as a search looks."""
    folder = store.folder_of(run, step)
    folder.mkdir(parents=True)
    entries = {}
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
        entries[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {"schema": store.SCHEMA, "step": step, "files": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def dangle(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to("away/on/another/disk")


def test_the_newest_is_that_of_the_greatest_number(tmp_path: Path) -> None:
    """Names sort otherwise from a million steps on; other names are no steps."""
    for step in (5, 999_999, 1_000_000):
        save(tmp_path, step)
    for name in ("step-9000000.invalid", "step-9000000.bak", ".step-9000000.part"):
        shutil.copytree(tmp_path / "checkpoints/step-000005", tmp_path / "checkpoints" / name)
    assert store.search(tmp_path) == store.Search(store.Checkpoint(tmp_path / "checkpoints/step-1000000", 1_000_000))


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert store.search(tmp_path) == store.Search()


def _listed_file_gone(folder: Path) -> None:
    (folder / "rank-00000.safetensors").unlink()


def _flipped(folder: Path) -> None:
    (folder / "rank-00000.safetensors").write_bytes(b"weightz")


def _cut(folder: Path) -> None:
    (folder / "state.json").write_bytes(b"")


def _no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _manifest(text: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "manifest.json").write_bytes(text)

    return write


def _other_step(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"step": 1}))


def _a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_listed_file_gone, "rank-00000.safetensors is missing"),
        (_flipped, "rank-00000.safetensors has another digest than was written"),
        (_cut, "state.json has 0 bytes, 2 were written"),
        (_no_manifest, "manifest.json is missing"),
        (_manifest(b""), "manifest.json is damaged"),
        (_manifest(b"\xff\xfe\xfd"), "manifest.json is damaged"),
        (_manifest(b"[" * 100_000), "manifest.json is damaged"),
        (_manifest(b"[1]"), "manifest.json is damaged"),
        (_manifest(b'{"schema": "x"}'), "manifest.json is damaged"),
        (_manifest(b'{"schema": 2, "step": 20, "files": {}}'), "manifest.json is damaged"),
        (_manifest(b'{"schema": 2, "step": 20, "files": {"state.json": 5}}'), "manifest.json is damaged"),
        (_other_step, "its manifest is of step 1"),
        (_a_file, "manifest.json is not a file"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_its_reason(
    tmp_path: Path, damage: Callable[[Path], None], why: str
) -> None:
    save(tmp_path, 10)
    damage(save(tmp_path, 20))
    before = names(tmp_path)
    found = store.search(tmp_path)
    assert found.newest == store.Checkpoint(tmp_path / "checkpoints/step-000010", 10)
    assert found.invalid == (store.InvalidCheckpoint(tmp_path / "checkpoints/step-000020", why),)
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    "place",
    ["step-000020/rank-00000.safetensors", "step-000020/state.json", "step-000020/manifest.json", "step-000020"],
)
def test_a_link_to_nothing_is_unreadable_not_invalid(tmp_path: Path, place: str) -> None:
    save(tmp_path, 10)
    save(tmp_path, 20)
    dangle(tmp_path / "checkpoints" / place)
    with pytest.raises(UserError, match=rf"^checkpoint {tmp_path}/checkpoints/{place}.* cannot be read \(it is a link"):
        store.search(tmp_path)
    assert names(tmp_path) == ["step-000010", "step-000020"]


def test_a_folder_of_checkpoints_on_a_disk_that_is_away_is_unreadable(tmp_path: Path) -> None:
    dangle(save(tmp_path, 10).parent)
    with pytest.raises(UserError, match="checkpoints cannot be read"):
        store.search(tmp_path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("method", ["read_regular", "stat", "open", "iterdir"])
def test_an_error_in_reading_is_not_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, method: str
) -> None:
    """Whichever call of the way meets it."""
    save(tmp_path, 10)
    save(tmp_path, 20)
    owner = store if method == "read_regular" else Path
    real = getattr(owner, method)

    def failing(self: Path, *arguments: object, **options: object) -> object:
        if "step-000020" in str(self) or method == "iterdir":
            raise OSError(number, "the reason")
        return real(self, *arguments, **options)

    monkeypatch.setattr(owner, method, failing)
    with pytest.raises(UserError, match=r"checkpoints.* cannot be read \(the reason\): nothing was changed") as error:
        store.search(tmp_path)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------- deleting


def test_only_what_a_committed_newer_one_supersedes_is_deleted(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, step)
    save(tmp_path, 50)
    set_aside(save(tmp_path, 15))
    set_aside(save(tmp_path, 45))
    remove_superseded(tmp_path, 40, keep_checkpoints=2)
    assert names(tmp_path) == ["step-000030", "step-000040", "step-000045.invalid", "step-000050"]
    remove_superseded(tmp_path, 50, keep_checkpoints=2)
    assert names(tmp_path) == ["step-000040", "step-000050"]


def test_a_kill_while_deleting_leaves_no_damaged_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", killed)
        remove_superseded(tmp_path, 30, keep_checkpoints=1)
    assert [folder.name for folder in store.step_folders(tmp_path)] == ["step-000030"]
    remove_superseded(tmp_path, 30, keep_checkpoints=1)
    assert names(tmp_path) == ["step-000030"]


def test_what_stands_where_a_checkpoint_comes_is_kept_aside(tmp_path: Path) -> None:
    for text in ("first", "second"):
        folder = store.folder_of(tmp_path, 10)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "text").write_text(text)
        staging = tmp_path / "checkpoints/.step-000010.part"
        staging.mkdir()
        publish(staging, folder)
        assert list(folder.iterdir()) == []
    kept = [(tmp_path / "checkpoints" / f"step-000010.invalid{end}/text").is_file() for end in ("", "-2")]
    assert kept == [True, True]
