"""What the one function that opens images refuses, and that it refuses in time."""

from __future__ import annotations

import io
import json
import struct
import time
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from janus_train.data import image_files
from janus_train.data.image_files import SAFE_FORMATS, ImageError, ImageTooLarge, load_image, open_image, write_png
from janus_train.data.images import to_rgb
from janus_train.data.sources.decode import SHARD_FORMATS, image_of
from janus_train.data.sources.jsonl import read_image
from janus_train.data.types import BadSample
from tests.helpers import encoded
from tests.hostile_images import HOSTILE, bomb, hostile_bytes, hostile_file, nothing_runs, postscript

RED = Image.new("RGB", (8, 8), "red")
SAYS = {
    "postscript": "is not an image of the formats",
    "bomb": "has 13000 x 13000 pixels, at most 100,000,000 are taken",
    "cut": "cannot be decoded",
    "pipe": "is a device or a pipe, not a regular file",
    "words": "is not an image of the formats",
}


def open_and_load(source: bytes | Path) -> None:
    load_image(open_image(source))


def gif_with_comment(blocks: int) -> bytes:
    """Pillow's time for it grows with the square of the comment's length."""
    header = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    pixel = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0;"
    return header + b"!\xfe" + (b"\xff" + b"a" * 255) * blocks + b"\0" + pixel


def tiff(entries: list[tuple[int, int, int, int]], blob: bytes) -> bytes:
    """``blob`` at offset 8, then a directory of (tag, type, count, value or offset)."""
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(blob)) + blob + struct.pack("<H", len(entries)) + directory + b"\0" * 4


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused(kind: str, tmp_path: Path) -> None:
    with nothing_runs(tmp_path), pytest.raises(ImageError, match=SAYS[kind]) as caught:
        open_and_load(hostile_file(kind, tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_source_of_files_makes_them_bad_samples(kind: str, tmp_path: Path) -> None:
    hostile_file(kind, tmp_path)
    with nothing_runs(tmp_path), pytest.raises(BadSample, match=f"(?s)image.*{SAYS[kind]}"):
        to_rgb(read_image(tmp_path, "holiday.png", "k"))


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind != "pipe"])
def test_a_shard_makes_them_bad_samples(kind: str, tmp_path: Path) -> None:
    with nothing_runs(tmp_path), pytest.raises(BadSample, match=f"its image {SAYS[kind]}"):
        to_rgb(image_of(hostile_bytes(kind, tmp_path / "marker"), SHARD_FORMATS, "k"))


def test_what_runs_programs_is_seen_by_these_tests(tmp_path: Path) -> None:
    """Pillow without a list of formats does reach its PostScript reader."""
    with pytest.raises(AssertionError), nothing_runs(tmp_path), pytest.raises(OSError):
        Image.open(io.BytesIO(postscript(tmp_path / "marker")))
    assert EpsImagePlugin.EpsImageFile._open.__name__ == "_open"


@pytest.mark.parametrize("form", SAFE_FORMATS)
def test_every_safe_format_opens_from_bytes_and_from_a_file(form: str, tmp_path: Path) -> None:
    data = encoded(RED, form)
    (tmp_path / "any.name").write_bytes(data)
    for source in (data, tmp_path / "any.name"):
        image = open_image(source)
        load_image(image)
        assert image.format == form and image.convert("RGB").getpixel((4, 4))[0] > 250


def test_only_the_formats_asked_for_open() -> None:
    with pytest.raises(ImageError, match="is not an image of the formats JPEG, PNG"):
        open_image(encoded(RED, "GIF"), ("JPEG", "PNG"))


def test_what_the_system_says_of_a_path_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError):
        open_image(tmp_path)
    with pytest.raises(ImageError, match="not a regular file"):
        open_image(Path("/dev/zero"))


def test_too_many_bytes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(image_files.MAX_FILE_BYTES + 1)
    with pytest.raises(ImageError, match="has more than 401 MB"):
        open_image(path)


@pytest.mark.parametrize("size", [(13_000, 13_000), (70_000, 10), (10, 70_000), (100_000, 100_000)])
def test_pixels_are_counted_before_decoding(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageTooLarge, match="pixels"):
        open_image(bomb(*size))
    with pytest.raises(ImageTooLarge, match="pixels"):  # also of an image that was opened elsewhere
        monkeypatch.setattr(image_files, "MAX_PIXELS", 63)
        load_image(RED.copy())


def test_a_tile_larger_than_its_image_is_refused() -> None:
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    entries += [(322, 4, 1, 32_000), (323, 4, 1, 32_000), (324, 4, 1, 8), (325, 4, 1, 64)]
    with pytest.raises(ImageTooLarge, match="tiles of 32000 x 32000 pixels"):
        open_image(tiff(entries, b"\0" * 64))


# ---------------------------------------------------------------------------------------------------------- time, memory


def test_a_decoder_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    data = gif_with_comment(40_000)  # 10 MB: several seconds
    monkeypatch.setattr(image_files, "MAX_DECODE_S", 0.1)
    start = time.thread_time()
    with pytest.raises(ImageError, match="takes more than"):
        open_image(data)
    assert time.thread_time() - start < 1


def test_a_jpeg_of_too_many_scans_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each passes over all pixels; 100 KB of them would take some ten seconds."""
    file = io.BytesIO()
    Image.new("L", (2000, 2000)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    image = open_image(data[:-2] + last_scan * (100_000 // len(last_scan)) + data[-2:])
    monkeypatch.setattr(image_files, "MAX_DECODE_S", 0.1)
    start = time.thread_time()
    with pytest.raises(ImageError, match="takes more than"):
        load_image(image)
    assert time.thread_time() - start < 2


def test_decoding_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time between opening and decoding does not count, and decoding's does."""
    image, second_image = (open_image(encoded(RED, "JPEG")) for _ in range(2))
    load_image(image)
    monkeypatch.setattr(image_files, "MAX_DECODE_S", -1.0)
    with pytest.raises(ImageError, match="takes more than"):
        load_image(second_image)


def test_tags_that_share_their_bytes_are_not_multiplied() -> None:
    """20,000 tags of the same 4 MB would be 80 GB."""
    blob = b"x" * (4 << 20)
    entries = [(1000 + number, 1, len(blob), 8) for number in range(20_000)]
    with pytest.raises(ImageError, match="the same bytes again and again"):
        open_image(tiff(entries, blob))


def test_exif_data_too_long_to_be_true_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (16, 8)).save(file, "PNG", exif=exif.tobytes() + b"\0" * image_files.MAX_EXIF_BYTES)
    image = open_image(file.getvalue())

    def fail(self: Image.Image) -> Image.Exif:
        raise AssertionError("EXIF data was read")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    monkeypatch.setattr(type(image), "getexif", fail)
    assert to_rgb(image).size == (16, 8)


# ------------------------------------------------------------------------------------------------------- AVIF and HEIC

OPTIONAL = ["AVIF", "HEIF"]
RED_AND_BLUE = Image.new("RGB", (64, 32), "red")
RED_AND_BLUE.paste("blue", (0, 0, 32, 32))


def optional_bytes(form: str, image: Image.Image = RED_AND_BLUE, **options: object) -> bytes:
    if form not in SAFE_FORMATS:
        pytest.skip(f"no decoder for {form} is installed")
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", OPTIONAL)
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_they_come_out_upright(form: str, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = optional_bytes(form, exif=exif.tobytes())
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    image = to_rgb(open_image(data))
    assert image.size == ((32, 64) if orientation > 4 else (64, 32)) and image.tobytes() == want.tobytes()


@pytest.mark.parametrize("form", OPTIONAL)
def test_their_exif_data_is_not_read(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow reads it when it opens them: 6000 tags that share the same 400 KB take 2 GB."""
    tags = b"".join(struct.pack("<HHII", 1000 + number, 2, 500, 8) for number in range(20))
    data = optional_bytes(form, exif=b"Exif\0\0II*\0" + struct.pack("<IH", 8, 20) + tags + b"\0" * 4 + b"x" * 500)
    assert b"Exif" in data

    def fail(self: Image.Exif, data: bytes) -> None:
        raise AssertionError("EXIF data was read")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Exif, "load", fail)
        image = open_image(data)
        load_image(image)
    assert to_rgb(image).size == (64, 32)


def test_an_orientation_in_xmp_does_not_count() -> None:
    """What counts is in the file's boxes; of other formats Pillow takes it from XMP, and HEIC's writer moves it from there."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert to_rgb(open_image(optional_bytes("AVIF", xmp=xmp))).size == (64, 32)


def test_a_heic_opens_at_its_main_image() -> None:
    pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    RED.save(file, "HEIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")], primary_index=1)
    assert to_rgb(open_image(file.getvalue())).getpixel((4, 4))[2] > 240


@pytest.mark.parametrize(
    ("brands", "says"),
    [
        (b"heic\0\0\0\0mif1heic", "is an image of the format HEIF, which needs pip install pillow-heif"),
        (b"mif1\0\0\0\0mif1heic", "is an image of the format HEIF, which needs pip install pillow-heif"),
        (b"avif\0\0\0\0avifmif1", r"is an image of the format AVIF, which needs pip install 'pillow>=11\.3'"),
        (b"isom\0\0\0\0isommp41", "is not an image of the formats JPEG"),
    ],
)
def test_without_a_decoder_it_is_said_what_to_install(
    brands: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "_UNREADABLE", {"AVIF", "HEIF"})
    safe = tuple(name for name in SAFE_FORMATS if name not in OPTIONAL)
    with pytest.raises(ImageError, match=says):
        open_image(struct.pack(">I", 24) + b"ftyp" + brands + b"\0" * 100, safe)


FAKE_PLUGIN = """
import io
from PIL import Image, PngImagePlugin

class HeifImageFile(PngImagePlugin.PngImageFile):
    format = "HEIF"

    def _open(self):
        self.fp = io.BytesIO(self.fp.read()[16:])
        super()._open()

def register_heif_opener(decode_threads):
    Image.register_open("HEIF", HeifImageFile, lambda head: head[4:12] == b"ftypheic")
"""
"""Reads a PNG that follows a HEIC's first box."""


@pytest.mark.parametrize("is_installed", [True, False])
def test_heic_is_read_where_a_plugin_is_installed(is_installed: bool, tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    from janus_train.paths import ROOT

    plugin = tmp_path / "plugins/pillow_heif.py"
    plugin.parent.mkdir()
    plugin.write_text(FAKE_PLUGIN if is_installed else "raise ImportError('libheif.so.1 is missing')")
    (tmp_path / "cats/cat").mkdir(parents=True)
    data = struct.pack(">I", 16) + b"ftypheic\0\0\0\0" + encoded(RED)
    (tmp_path / "cats/cat/IMG_0001.HEIC").write_bytes(data)
    words = ["prepare", "imagefolder", str(tmp_path / "cats"), "--out", str(tmp_path / "out"), "--workers", "1"]
    result = subprocess.run(
        [sys.executable, "-c", "from janus_train.cli import main; main()", *words],
        env=os.environ | {"PYTHONPATH": f"{plugin.parent}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if is_installed:
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("1 samples")
    else:
        assert result.returncode == 2 and not (tmp_path / "out").exists()
        [line] = result.stderr.splitlines()
        assert line.endswith(
            "the class 'cat' has no image that can be read, it contains 1 file .heic (pip install pillow-heif)"
        )


# -------------------------------------------------------------------------------------------------------- the linter's rule


@pytest.mark.parametrize(
    "code",
    [
        "from PIL import Image\nImage.open('x')\n",
        "import PIL.Image\nPIL.Image.open('x')\n",
        "from PIL.Image import open as o\no('x')\n",
    ],
)
def test_the_linter_forbids_any_other_open(code: str) -> None:
    import shutil
    import subprocess
    import sys

    from janus_train.paths import ROOT

    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("no ruff")
    words = [ruff, "check", "--no-cache", "--output-format", "json", "--stdin-filename", "janus_train/any.py", "-"]
    result = subprocess.run(words, input=code, capture_output=True, text=True, cwd=ROOT, check=False)
    assert "TID251" in {problem["code"] for problem in json.loads(result.stdout)}


def test_a_png_is_written_whole_into_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "image.png"
    for colour in ((1, 2, 3), (4, 5, 6)):
        write_png(path, Image.new("RGB", (3, 2), colour))
        image = open_image(path)
        load_image(image)
        assert image.size == (3, 2) and image.convert("RGB").getpixel((0, 0)) == colour
    assert [each.name for each in path.parent.iterdir()] == ["image.png"]
    with pytest.raises(FileNotFoundError):
        write_png(tmp_path / "deleted" / "samples" / "image.png", Image.new("RGB", (3, 2)))
