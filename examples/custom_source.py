"""A source of one's own: samples from an SQLite database, read at random places, without a conversion to shards.

    python examples/custom_source.py                        # 5 seconds on two CPU cores

A source is a sequence of records: ``len(source)``, ``source[i]``, and a digest that changes with the data. The same ``i``
gives the same record in every process, which is what lets a run resume in the middle of an epoch. The script writes a
database of 24 images with captions, trains two steps on it, and resumes for two more. What is written to ``--out``:
``photos.db``, ``recipe.yaml`` and ``run/``.

For runs from the command line this module is a plug-in; type this in the project's folder:

    accelerate launch train.py plugins=[examples.custom_source] +stage=3 data.recipe=outputs/custom_source/recipe.yaml \\
        ratio.understanding=0 ratio.text=0
    janus-train verify outputs/custom_source/recipe.yaml --plugin examples.custom_source
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image

from janus_train import UserError, compose_config
from janus_train.data.image_files import ImageError, open_image
from janus_train.data.sources.registry import SourceConfig, register_source
from janus_train.data.types import BadSample, Record

COLOURS = ("red", "green", "blue", "orange", "purple", "gray")

RECIPE = """\
name: photos
licence: mine
sources:
  - {name: photos, kind: generation, type: sqlite, template: request_to_image, weight: 1, paths: [photos.db], table: photos}
"""


class SqliteSource:
    """The rows of a table with the columns ``caption`` and ``image``, in the order of their ids.

    Raises `UserError` if the file is no database or has no such table.
    """

    def __init__(self, path: Path, table: str):
        if not re.fullmatch(r"\w+", table):  # a table's name cannot be a parameter of a query
            raise UserError(f"table: {table!r} is no name of a table")
        self._path, self._table = path.absolute(), table
        try:
            # The ids alone stay in memory: ids may have gaps, and a random place must be found at once.
            self._ids = [row[0] for row in self._query(f"SELECT rowid FROM {table} ORDER BY rowid")]
        except sqlite3.Error as error:
            raise UserError(f"{path}: the table {table} cannot be read ({error})") from None
        if not self._ids:
            raise UserError(f"{path}: the table {table} is empty")

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Record:
        number = self._ids[index]
        [(caption, data)] = self._query(f"SELECT caption, image FROM {self._table} WHERE rowid = ?", number)
        try:
            image = open_image(data)  # within limits, since an image may come from anybody; decoded when it is used
        except ImageError as error:
            raise BadSample(f"its image {error}", key=str(number)) from None
        return Record(key=str(number), fields={"caption": caption}, images=[image])

    def data_digest(self) -> str:
        """Of the whole file: a run refuses to resume on another one. For a large database take what changes with it."""
        with self._path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def _query(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        # A connection per query: worker processes are forks, and must not share one. It takes a tenth of a millisecond.
        with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(query, values).fetchall()


class SqliteConfig(SourceConfig):
    """What a recipe may say about a source of type sqlite, besides what all sources have."""

    table: str


@register_source("sqlite", SqliteConfig)
def open_sqlite(config: SqliteConfig, places: list[Path], image_size: int) -> SqliteSource:
    """``places`` are the files that the recipe's ``paths`` stand for."""
    if len(places) != 1:
        raise UserError(f"source {config.name!r} of type sqlite takes one database, paths give {len(places)}")
    return SqliteSource(places[0], config.table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/custom_source"))
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("overrides", nargs="*", help="further options of train.py, such as batch.row_tokens=256")
    options = parser.parse_intermixed_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    write_database(out / "photos.db")
    (out / "recipe.yaml").write_text(RECIPE, encoding="utf-8")

    source = SqliteSource(out / "photos.db", "photos")
    print(f"{len(source)} records, the first is {source[0].fields}, digest {source.data_digest()}")

    from janus_train.train.run import run  # loads torch, which a plug-in should not when it is imported

    overrides = [
        "+stage=3",
        f"data.recipe={out / 'recipe.yaml'}",
        "ratio.understanding=0",  # the recipe has nothing but generation
        "ratio.text=0",
        f"run.planned_steps={2 * options.steps}",  # the learning rate's schedule; the first run stops halfway
        f"output_dir={out / 'run'}",
        *options.overrides,
    ]
    run(compose_config([*overrides, f"run.steps={options.steps}"]))
    folder = run(compose_config([*overrides, f"run.steps={2 * options.steps}"]))  # resumes, with samples not yet seen
    print(f"model: {folder / 'final'}")


def write_database(path: Path) -> None:
    """24 images of plain colours in four sizes; a database that is there already stays."""
    if path.exists():
        return
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE photos (caption TEXT NOT NULL, image BLOB NOT NULL)")
        for colour in COLOURS:
            for side in (48, 64, 96, 128):
                file = io.BytesIO()
                Image.new("RGB", (side, side), colour).save(file, "PNG")
                connection.execute("INSERT INTO photos VALUES (?, ?)", (f"A {colour} field.", file.getvalue()))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
