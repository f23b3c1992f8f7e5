"""Measures the data path against the bare decoder and webdataset, opening 100 million samples, and reduced JPEG decoding.

    python benchmarks/data.py [--images 200] [--turns 40]

The images are generated JPEGs of 500x400 in generated tars. Three paths take the same images in turns, so that load on the
machine affects all of them; the result is the CPU time of the fastest quarter of each path's turns:

    bare        the JPEG's bytes in memory -> decoded -> resized (Pillow's bicubic, which alone gives the official pixels)
    whole path  tar -> member with its digest checked -> record -> template -> tokens and pixels of a document
    webdataset  tar -> webdataset's sample, undecoded -> record -> template -> tokens and pixels of a document
"""

from __future__ import annotations

import argparse
import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from PIL import Image
from transformers import PreTrainedTokenizerFast

from janus_train.data.encode import Encoder
from janus_train.data.image_files import open_image
from janus_train.data.images import understanding_pixels
from janus_train.data.shards.index import Head, write_heads, write_listing
from janus_train.data.shards.scan import write_index
from janus_train.data.shuffle import Order
from janus_train.data.sources.decode import SHARD_FORMATS, image_of
from janus_train.data.sources.shards import ShardSource, find_tars
from janus_train.data.templates import get_template
from janus_train.data.types import Kind, Record, Reference
from janus_train.paths import ROOT

WIDTH, HEIGHT, SIZE = 500, 400, 384
CAPTION = "A wooden table with two cups of coffee, a newspaper and a pair of glasses. Light falls in from the left."
DIRECTIONS: dict[str, tuple[Kind, str, tuple[int, int]]] = {
    # template's kind, template, what the official recipe resizes 500x400 to
    "understanding": ("understanding", "image_describe", (SIZE, int(HEIGHT / WIDTH * SIZE))),
    "generation": ("generation", "text_to_image", (int(WIDTH / HEIGHT * SIZE), SIZE)),
}
SHARDS, SAMPLES_PER_SHARD = 10_000, 10_000
IMAGES_PER_TURN = 50


def jpegs(number: int) -> list[bytes]:
    """Makes images with large shapes and fine grain, about 60 KB each, like photographs of that size."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8)).resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 9, (HEIGHT, WIDTH, 1))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        images.append(buffer.getvalue())
    return images


def reduced_jpeg_row(width: int, height: int, turns: int = 9) -> str:
    """Returns a table row with the speed-up and the error of ``data.jpeg=reduced``, on a generated image."""
    rng = np.random.default_rng(0)
    levels = rng.normal(128, 6, (height, width, 1)).repeat(3, axis=2)
    for grid, strength in ((6, 90), (20, 40), (80, 20), (300, 10)):
        coarse = Image.fromarray(rng.integers(0, 256, (max(2, grid * height // width), grid, 3), np.uint8))
        levels += (np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float) - 128) * strength / 128
    buffer = io.BytesIO()
    Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    seconds_by_way: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(turns):
        for way, seconds in seconds_by_way.items():
            start = time.process_time()
            understanding_pixels(open_image(buffer.getvalue()), SIZE, reduced=way)
            seconds.append(time.process_time() - start)
    exact_pixels, reduced_pixels = (
        understanding_pixels(open_image(buffer.getvalue()), SIZE, reduced=way).astype(int) for way in seconds_by_way
    )
    difference = np.abs(exact_pixels - reduced_pixels)
    return f"| {width}x{height} | {min(seconds_by_way[False]) / min(seconds_by_way[True]):.1f} | {difference.mean():.2f} | {difference.max()} |"


def write_tars(folder: Path, images: list[bytes], images_per_tar: int = 100) -> None:
    for start in range(0, len(images), images_per_tar):
        path = folder / f"{start // images_per_tar:03d}.tar"
        with tarfile.open(path, "w") as tar:
            for number, image in enumerate(images[start : start + images_per_tar], start):
                for ending, data in (
                    ("json", json.dumps({"caption": f"{number}. {CAPTION}"}).encode()),
                    ("jpg", image),
                ):
                    info = tarfile.TarInfo(f"{number:06d}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        write_index(path)
    write_listing(folder)


# --------------------------------------------------------------------------------------------- the paths: endless, one image per step


def bare_decodes(images: list[bytes], size: tuple[int, int]) -> Iterator[None]:
    while True:
        for data in images:
            image = Image.open(io.BytesIO(data))  # noqa: TID251 - Pillow alone is what is measured
            np.asarray(image.resize(size, Image.Resampling.BICUBIC))
            yield


def our_records(folder: Path) -> Iterator[Record]:
    source = ShardSource(find_tars(folder))
    order, epoch = Order(0, "benchmark", source.shard_sizes), 0
    while True:
        for position in range(len(source)):
            yield source[order.index(epoch, position)]
        epoch += 1


def webdataset_records(folder: Path) -> Iterator[Record]:
    tars = [str(tar) for tar in sorted(folder.glob("*.tar"))]
    while True:
        for sample in webdataset.WebDataset(tars, shardshuffle=False):
            key = sample["__key__"]
            yield Record(key, json.loads(sample["json"]), [image_of(sample["jpg"], SHARD_FORMATS, key)], [None])


def documents(records: Iterator[Record], encoder: Encoder, kind: Kind, template: str) -> Iterator[None]:
    for number, record in enumerate(records):
        encoder.encode(
            record,
            get_template(template),
            kind,
            Reference("benchmark", 0, number, record.key),
            row_tokens=None,
            rng=random.Random(number),
            guidance_dropout=0.1,
            first_sentence=0.25,
        )
        yield


def rates(paths: dict[str, Callable[[], Iterator[Any]]], turns: int) -> dict[str, float]:
    """Returns images per second of CPU time for each path, over the fastest quarter of its turns of `IMAGES_PER_TURN`.

    In slower turns other processes used the core's other half and its caches.
    """
    iterators = {name: start() for name, start in paths.items()}
    for path in iterators.values():
        for _ in range(20):  # files are opened and caches filled
            next(path)
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for turn in range(turns):
        names = list(iterators)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            for _ in range(IMAGES_PER_TURN):
                next(iterators[name])
            seconds[name].append(time.process_time() - start)
    num_quickest = max(1, turns // 4)
    return {name: IMAGES_PER_TURN * num_quickest / sum(sorted(times)[:num_quickest]) for name, times in seconds.items()}


# ---------------------------------------------------------------------------------------------------------------- opening

OPEN = """
import resource, sys, time
from pathlib import Path
from janus_train.data.shuffle import Order
from janus_train.data.sources.shards import ShardSource, find_tars
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = used(), time.monotonic()
source = ShardSource(find_tars(Path(sys.argv[1])))
Order(0, "s", source.shard_sizes).index(0, len(source) // 2)
print(len(source), time.monotonic() - start, before, used())
"""


def open_large() -> str:
    """Opens 10,000 tars of 10,000 samples: sparse files of a GiB, and their shards.json."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        heads = {f"{i:05d}.tar": Head(1 << 30, "0" * 64, SAMPLES_PER_SHARD) for i in range(SHARDS)}
        for tar in heads:
            with (folder / tar).open("wb") as file:
                file.truncate(1 << 30)
        write_heads(folder, heads)
        command = [sys.executable, "-c", OPEN, str(folder)]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    samples, seconds, mib_before, mib_after = map(float, result.stdout.split())
    return (
        f"{samples:,.0f} samples in {SHARDS:,} tars: open and ordered in {seconds:.2f} s, {mib_after:.0f} MiB of memory "
        f"({mib_before:.0f} MiB before, by imports)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the data path.")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--turns", type=int, default=40)
    options = parser.parse_args()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(ROOT / "data_recipes/demo/base")
    encoder = Encoder(tokenizer, tokens_per_image=576, image_size=SIZE, system_prompt="")
    images = jpegs(options.images)
    print(f"{len(images)} JPEGs of {WIDTH}x{HEIGHT}, {sum(map(len, images)) / len(images) / 1000:.0f} KB each\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tars(folder, images)
        print("| direction | path | images per second and core | of bare | of webdataset |\n|---|---|---|---|---|")
        for direction, (kind, template, size) in DIRECTIONS.items():
            paths: dict[str, Callable[[], Iterator[Any]]] = {
                "bare": lambda size=size: bare_decodes(images, size),  # type: ignore[misc]
                "whole path": lambda k=kind, t=template: documents(our_records(folder), encoder, k, t),  # type: ignore[misc]
                "webdataset": lambda k=kind, t=template: documents(webdataset_records(folder), encoder, k, t),  # type: ignore[misc]
            }
            path_rates = rates(paths, options.turns)
            for path, rate in path_rates.items():
                print(
                    f"| {direction} | {path} | {rate:.0f} | {rate / path_rates['bare']:.2f} | {rate / path_rates['webdataset']:.2f} |"
                )
        path_rates = rates(
            {"ours": lambda: our_records(folder), "webdataset": lambda: webdataset_records(folder)},
            options.turns,
        )
        print(
            f"\nrecords alone, undecoded: {path_rates['ours']:.0f} per second and core, webdataset {path_rates['webdataset']:.0f}"
        )
    print(open_large())
    print("\n| JPEG | reduced: times as fast | mean difference, of 255 | largest |\n|---|---|---|---|")
    for width, height in ((1600, 1200), (1601, 1203), (3000, 2000), (4000, 3000)):
        print(reduced_jpeg_row(width, height))


if __name__ == "__main__":
    main()
