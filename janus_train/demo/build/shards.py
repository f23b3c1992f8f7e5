"""Builds the embedded image set: 3D emoji of objects as WebDataset shards, the same bytes each time.

    python -m janus_train.demo.build.shards                    # gets the packages with npm, writes shards/
    python -m janus_train.demo.build.shards --packages DIR     # the two .tgz of `npm pack` stand in DIR already
    python -m janus_train.demo.build.shards --check            # rebuilds beside and compares digests

In: two npm packages, both MIT, pinned by version and SHA-256 (`PACKAGES`): the images (256x256 RGBA) and their labels
and tags in English and Chinese. Out: ``shards/objects-NNN.tar`` with ``KEY.json`` and ``KEY.webp`` (64x64 RGBA,
lossless), an index beside each tar, ``shards.json`` over all of them, and ``LICENSE``.

The bytes depend on the packages (pinned by digest) and on Pillow with the WebP encoder in its wheel (`PILLOW`). Another
Pillow gives the same pixels, but the compressed bytes may differ: ``--check`` reports that.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL
from PIL import Image

from janus_train.data.image_files import open_image
from janus_train.demo.objects import SHARDS_FOLDER
from janus_train.errors import UserError

PACKAGES = {
    "lobehub-fluent-emoji-3d-1.1.0.tgz": "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    "emojibase-data-17.0.0.tgz": "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
}
"""File name of `npm pack` -> its SHA-256."""

NPM_NAMES = ("@lobehub/fluent-emoji-3d@1.1.0", "emojibase-data@17.0.0")
PILLOW = ("12.3.0", "13.0.0")
"""Versions that are known to give the committed bytes."""

GROUPS = {3: "animals & nature", 4: "food & drink", 5: "travel & places", 6: "activities", 7: "objects"}
"""Emojibase's groups of objects; faces, people, symbols and flags are left out."""

CLOCK_FACES = ("o'clock", "-thirty")
"""Endings of the 24 clock faces, left out: at 64 pixels they differ by the angle of one hand."""

NEW_NAMES = {
    "locked": "closed padlock",
    "unlocked": "open padlock",
    "locked with pen": "padlock with pen",
    "locked with key": "padlock with key",
    "foggy": "bridge in fog",
}
"""Labels that are not nouns -> nouns for what the image shows."""

SIZE = 64  # pixels a side
OBJECTS_PER_SHARD = 210

LICENSE = """The images and names in these shards come from two npm packages, both under the MIT licence.

Images: Fluent Emoji (3D) by Microsoft, as packaged in @lobehub/fluent-emoji-3d 1.1.0 by LobeHub, scaled to 64x64.
    Copyright (c) Microsoft Corporation.
    Copyright (c) 2023 LobeHub

Names, tags, groups: emojibase-data 17.0.0.
    Copyright (c) 2017-2019 Miles Johnson

MIT License

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def fetch(folder: Path) -> None:
    """Download both packages into ``folder`` with `npm pack`."""
    try:
        subprocess.run(["npm", "pack", *NPM_NAMES], cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            "npm is not installed: install it, or give --packages DIR with " + " and ".join(PACKAGES)
        ) from None
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"npm pack {' '.join(NPM_NAMES)}: {last_line}; or give --packages DIR with the files") from None


def open_package(folder: Path, name: str) -> dict[str, bytes]:
    """The files of a package, by their path in it. Raises `UserError` if it is missing or not the pinned one."""
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path}: no such file; get it with `npm pack {' '.join(NPM_NAMES)}`")
    data = path.read_bytes()
    package_digest = hashlib.sha256(data).hexdigest()
    if package_digest != PACKAGES[name]:
        raise UserError(
            f"{path}: SHA-256 {package_digest} is not the pinned {PACKAGES[name]}; get it again with npm pack"
        )
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(m, tar.extractfile(m)) for m in tar.getmembers() if m.isfile()]
        return {m.name.removeprefix("package/"): f.read() for m, f in members if f is not None}


def plain_apostrophes(text: str) -> str:
    """The text with typewriter apostrophes."""
    return text.replace("\u2019", "'").strip()


def shrink(data: bytes) -> Image.Image:
    """Scale an image to SIZE x SIZE, RGBA, with premultiplied alpha, so that edges get no colour from outside."""
    image = open_image(data).convert("RGBA").convert("RGBa")
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS).convert("RGBA")


def objects(images: dict[str, bytes], labels: dict[str, bytes]) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """Yield (key, fields, webp) of every object that has an image, in emojibase's order."""
    english = json.loads(labels["en/data.json"])
    chinese = {entry["hexcode"]: entry for entry in json.loads(labels["zh/data.json"])}
    messages = json.loads(labels["en/messages.json"])
    # Two subgroups have number 46 in this version (seafood, sweets & candy); all 14 members are sweets: the last wins.
    subgroups = {entry["order"]: entry["message"] for entry in messages["subgroups"]}
    for entry in sorted((e for e in english if e.get("group") in GROUPS), key=lambda e: e["order"]):
        name, key = plain_apostrophes(entry["label"]), entry["hexcode"].lower()
        candidates = (key, f"{key}-fe0f", key.replace("-fe0f", ""))
        image_name = next((c for c in candidates if f"assets/{c}.webp" in images), None)
        if image_name is None or name.endswith(CLOCK_FACES):
            continue
        chinese_entry = chinese[entry["hexcode"]]
        fields = {
            "class_name": NEW_NAMES.get(name, name),
            "tags": [plain_apostrophes(tag) for tag in entry.get("tags", [])],
            "class_name_zh": chinese_entry["label"],
            "tags_zh": chinese_entry.get("tags", []),
            "group": GROUPS[entry["group"]],
            "subgroup": subgroups[entry["subgroup"]],
            "hexcode": entry["hexcode"],
        }
        stream = io.BytesIO()
        shrink(images[f"assets/{image_name}.webp"]).save(stream, "WEBP", lossless=True, quality=75, method=4)
        yield key, fields, stream.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member without time and owner."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), 0, 0o644
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    tar.addfile(info, io.BytesIO(data))


def build(packages: Path, out: Path) -> list[Path]:
    """Write the tars, their indices and the licence into ``out``; returns the paths of the files to compare."""
    from janus_train.data.shards.index import LISTING, write_listing
    from janus_train.data.shards.scan import write_index

    images, labels = (open_package(packages, name) for name in PACKAGES)
    entries = list(objects(images, labels))
    names = [fields["class_name"] for _, fields, _ in entries]
    assert len(set(names)) == len(names), "two objects share a name"
    out.mkdir(parents=True, exist_ok=True)
    tars = []
    for number, start in enumerate(range(0, len(entries), OBJECTS_PER_SHARD)):
        path = out / f"objects-{number:03d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, fields, webp in entries[start : start + OBJECTS_PER_SHARD]:
                add(tar, f"{key}.json", json.dumps(fields, ensure_ascii=False, sort_keys=True).encode())
                add(tar, f"{key}.webp", webp)
        tars.append(path)
    (out / "LICENSE").write_text(LICENSE)
    print(f"{len(entries)} objects in {len(tars)} shards, {sum(p.stat().st_size for p in tars) / 1e6:.1f} MB")
    indices = [write_index(path) for path in tars]
    write_listing(out)
    return [*tars, *indices, out / LISTING]


def check(packages: Path) -> None:
    """Rebuild into a temporary folder and compare with the committed files. Raises `UserError` at a difference."""
    with tempfile.TemporaryDirectory() as folder:
        for path in build(packages, Path(folder)):
            committed_file = SHARDS_FOLDER / path.name
            if not committed_file.is_file():
                raise UserError(f"{committed_file}: missing; run python -m janus_train.demo.build.shards")
            if hashlib.sha256(path.read_bytes()).digest() != hashlib.sha256(committed_file.read_bytes()).digest():
                versions = " and ".join(PILLOW)
                hint = (
                    ""
                    if PIL.__version__ in PILLOW
                    else f" (Pillow {versions} give these bytes; this is {PIL.__version__})"
                )
                raise UserError(f"{committed_file}: differs from what the packages give{hint}")
    print("the committed shards are what the packages give")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the embedded image set.")
    parser.add_argument("--packages", type=Path, help="folder with the two .tgz; default: take them with npm")
    parser.add_argument("--out", type=Path, default=SHARDS_FOLDER)
    parser.add_argument("--check", action="store_true", help="rebuild beside and compare with the committed shards")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        packages = options.packages or Path(temporary)
        if options.packages is None:
            fetch(packages)
        if options.check:
            check(packages)
            return
        build(packages, options.out)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
