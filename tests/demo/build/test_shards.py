"""The embedded shards: what they hold, and that the packages give the same bytes again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from janus_train.data.sources.shards import ShardSource
from janus_train.demo.build import shards as build
from janus_train.errors import UserError
from janus_train.paths import ROOT

DEMO = ROOT / "data_recipes/demo"
TARS = sorted((DEMO / "shards").glob("*.tar"))


def test_every_object_has_its_fields_and_an_image() -> None:
    source = ShardSource(TARS)
    assert len(source) == 825
    names = set()
    for index in range(len(source)):
        record = source[index]
        names.add(record.fields["class_name"])
        assert set(record.fields) == {"class_name", "tags", "class_name_zh", "tags_zh", "group", "subgroup", "hexcode"}
        assert record.images[0].size == (64, 64)
        assert record.images[0].convert("RGBA").getchannel("A").getextrema()[1] == 255
    assert len(names) == 825
    assert not any("\u2019" in name or "+" in name or "@" in name for name in names)


def test_shards_are_small_and_licensed() -> None:
    assert sum(tar.stat().st_size for tar in TARS) < 6_000_000
    licence = (DEMO / "shards/LICENSE").read_text()
    for holder in ("Microsoft", "LobeHub", "Miles Johnson", "Permission is hereby granted"):
        assert holder in licence


def test_members_say_nothing_of_when_and_who() -> None:
    for path in TARS:
        with tarfile.open(path) as tar:
            assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar} == {(0, 0, 0, "root", 0o644)}


def test_scaling_takes_no_colour_from_transparent_pixels() -> None:
    """A red disc whose transparent surroundings are stored green stays red to its edge."""
    import io

    image = Image.new("RGBA", (256, 256), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (64, 64, 191, 191))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    small = build.shrink(stream.getvalue())
    assert all(g < 8 for r, g, b, a in small.getdata() if a > 16)


def test_a_wrong_package_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        build.build(tmp_path, tmp_path / "out")
    for name in build.PACKAGES:
        (tmp_path / name).write_bytes(b"not it")
    with pytest.raises(UserError, match="SHA-256"):
        build.build(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.npm
def test_the_packages_give_the_committed_bytes(tmp_path: Path) -> None:
    """Needs the packages: from the folder DEMO_PACKAGES, or from the registry through npm."""
    packages_folder = os.environ.get("DEMO_PACKAGES")
    if packages_folder is None:
        if shutil.which("npm") is None:
            pytest.skip("no DEMO_PACKAGES folder and no npm: the rebuild of the shards is not checked")
        try:
            build.fetch(tmp_path)
        except UserError as error:
            pytest.skip(f"the packages cannot be had: {error}")
    if Image.__version__ not in build.PILLOW:
        pytest.skip(f"Pillow {Image.__version__} is none of {build.PILLOW}, which give the shards' bytes")
    command = [
        sys.executable,
        "-m",
        "janus_train.demo.build.shards",
        "--check",
        "--packages",
        packages_folder or str(tmp_path),
    ]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert result.returncode == 0, result.stderr
    assert "are what the packages give" in result.stdout
