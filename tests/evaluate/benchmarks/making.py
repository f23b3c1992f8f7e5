"""Invented benchmarks in the published layouts."""

from __future__ import annotations

import base64
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from janus_train.evaluate.benchmarks.protocol import FOLDER, Protocol
from tests.helpers import encoded, plain_image

COLOURS = [(220, 30, 30), (30, 200, 40), (30, 40, 220), (240, 230, 20)]


def png(number: int = 0) -> bytes:
    """An image of 24 x 20 pixels, of another colour and noise for each number."""
    return encoded(plain_image(COLOURS[number % len(COLOURS)], (24 + number // len(COLOURS), 20)))


def base64_png(number: int = 0) -> str:
    return base64.b64encode(png(number)).decode()


def write_tsv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """As pandas writes it: the columns of all rows, empty where a row has none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], row_group_size: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path, row_group_size=row_group_size)
    return path


def protocol_values(name: str = "deepseek", **changes: Any) -> dict[str, Any]:
    """The values of a protocol whose answers have at most five tokens."""
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    values["decoding"]["max_new_tokens"] = 5
    return {**values, **changes}


def short_protocol(name: str = "deepseek", **changes: Any) -> Protocol:
    return Protocol.model_validate(protocol_values(name, **changes))


def protocol_file(path: Path, name: str = "deepseek", **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(protocol_values(name, **changes)), encoding="utf-8")
    return path


def pope_rows(n: int = 6) -> list[dict[str, Any]]:
    """Questions about three images, which are named again as POPE's TSV does."""
    splits = ["random", "popular", "adversarial", "random,popular"]
    return [
        {
            "index": number,
            "category": splits[number % 4],
            "question": f"Is there a dog number {number} in the image? Please answer yes or no.",
            "answer": ["Yes", "No"][number % 2],
            "image": base64_png(number) if number < 3 else str(number % 3),
        }
        for number in range(n)
    ]
