"""Prompts and questions in DPG-Bench's layout, invented."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

TEXTS = {"cat": "A black cat sleeps on a mat.", "dog": "A dog."}
COLUMNS = ["item_id", "text", "keywords", "proposition_id", "dependency", "tuple", "question_natural_language"]
ROWS = [
    ["cat", TEXTS["cat"], "", "1", "0", "entity - whole (cat)", "is there a cat?"],
    ["cat", TEXTS["cat"], "", "2", "1", "attribute - color (cat, black)", "is the cat black?"],
    ["cat", TEXTS["cat"], "", "3", "1,2", "relation - spatial (cat, mat, on)", "is it on a mat, and asleep?"],
    ["dog", TEXTS["dog"], "", "1", "0", "entity - whole (dog)", "is there a dog?"],
]


def write_texts(data: Path, texts: dict[str, str] = TEXTS) -> None:
    (data / "prompts").mkdir(parents=True, exist_ok=True)
    for key, text in texts.items():
        (data / "prompts" / f"{key}.txt").write_text(text + "\n", encoding="utf-8")


def write_csv(data: Path, rows: Sequence[Sequence[str]] = ROWS) -> Path:
    data.mkdir(parents=True, exist_ok=True)
    path = data / "dpg_bench.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path
