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
from janus_train.evaluate.benchmarks.tasks.mme import CATEGORIES as MME_CATEGORIES
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


def protocol_values(base: str = "deepseek", **changes: Any) -> dict[str, Any]:
    """The values of a protocol whose answers have at most five tokens."""
    values = yaml.safe_load((FOLDER / f"{base}.yaml").read_text(encoding="utf-8"))
    values["decoding"]["max_new_tokens"] = 5
    return {**values, **changes}


def short_protocol(base: str = "deepseek", **changes: Any) -> Protocol:
    return Protocol.model_validate(protocol_values(base, **changes))


def protocol_file(path: Path, base: str = "deepseek", **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(protocol_values(base, **changes)), encoding="utf-8")
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


def write_all(folder: Path) -> None:
    """A few questions of every benchmark of understanding."""
    choice = {"question": "Which colour?", "A": "red", "B": "green", "answer": "B", "category": "colours"}
    pair = [
        {"category": category, "question": "Is it red?", "answer": answer, "image_path": "0.jpg"}
        for category in (name for names in MME_CATEGORIES.values() for name in names)
        for answer in ("Yes", "No")
    ]
    several = str([base64_png(0), base64_png(1)])
    tables: dict[str, list[dict[str, Any]]] = {
        "POPE": pope_rows(4),
        "MME": [row | {"index": number, "image": base64_png(number)} for number, row in enumerate(pair)],
        "MMBench_DEV_EN": [{"index": 4, **choice, "hint": "Look.", "image": base64_png(0)}],
        "SEEDBench_IMG": [{"index": number, **choice, "image": base64_png(number)} for number in range(2)],
        "MMMU_DEV_VAL": [
            {"index": 0, **choice, "question": "<image 1>, <image 2>?", "split": "validation", "image": several},
            {"index": 1, "question": "How many?", "answer": "4", "split": "validation", "image": base64_png(2)},
        ],
        "GQA_TestDev_Balanced": [{"index": 5, "question": "Which colour?", "answer": "red", "image": base64_png(0)}],
        "MMVet": [{"index": 0, "question": "What is it?", "answer": "a card", "image": base64_png(0)}],
    }
    for name, rows in tables.items():
        write_tsv(folder / f"{name}.tsv", rows)
