"""Tables as they are published: TSV with base64 images and references, Parquet with images inside; what is broken is said."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.tables import find_files, read_rows
from tests.evaluate.benchmarks.making import COLOURS, base64_png, png, write_parquet, write_tsv
from tests.helpers import encoded


def colours_of(row) -> list[tuple[int, ...]]:
    return [tuple(np.asarray(cell.read())[0, 0]) for cell in row.images]


def test_a_tsv_has_text_with_tabs_lines_and_quotes_and_images_after_it(tmp_path: Path) -> None:
    rows = [
        {"index": 0, "question": 'A "quoted"\tword\nand a line é', "A": "None", "B": "", "image": base64_png(0)},
        {"index": 1, "question": "plain", "A": "NA", "B": "x", "image": base64_png(1)},
    ]
    first, second = read_rows([write_tsv(tmp_path / "t.tsv", rows)])
    assert first.values["question"] == 'A "quoted"\tword\nand a line é'
    assert "B" not in first.values and first.values["A"] == "None" and second.values["A"] == "NA"  # words, not gaps
    assert colours_of(second) == [COLOURS[1]] and colours_of(first) == [COLOURS[0]]  # in any order


def test_a_row_may_name_the_row_that_has_its_image_also_a_later_one(tmp_path: Path) -> None:
    rows = [
        {"index": 7, "question": "a", "image": "1000008"},
        {"index": 1000008, "question": "b", "image": base64_png(2)},
    ]
    first, second = read_rows([write_tsv(tmp_path / "t.tsv", rows)])
    assert first.images == second.images and colours_of(first) == [COLOURS[2]]


def test_a_cell_may_hold_several_images(tmp_path: Path) -> None:
    rows = [{"index": 0, "question": "a", "image": str([base64_png(3), base64_png(1)])}]
    [row] = read_rows([write_tsv(tmp_path / "t.tsv", rows)])
    assert colours_of(row) == [COLOURS[3], COLOURS[1]]


def test_parquet_has_images_as_bytes_lists_or_columns_and_row_groups_in_any_order(tmp_path: Path) -> None:
    def hub(number: int) -> dict[str, object]:
        return {"bytes": png(number), "path": None}

    path = write_parquet(
        tmp_path / "a.parquet", [{"question": f"q{n}", "number": n, "image": hub(n)} for n in range(4)]
    )
    lists = write_parquet(tmp_path / "b.parquet", [{"question": "q", "image": [hub(1), hub(2)]}])
    columns = write_parquet(
        tmp_path / "c.parquet", [{"question": "q", "image_1": hub(3), "image_2": None, "image_3": hub(0)}]
    )
    rows = read_rows([path, lists, columns])
    assert [colours_of(rows[n]) for n in (3, 0, 2, 1)] == [[COLOURS[n]] for n in (3, 0, 2, 1)]
    assert rows[2].values == {"question": "q2", "number": "2"}
    assert colours_of(rows[4]) == [COLOURS[1], COLOURS[2]]
    assert colours_of(rows[5]) == [COLOURS[3], COLOURS[0]]


def test_questions_and_images_may_stand_in_two_parquet_files(tmp_path: Path) -> None:
    images = [{"id": f"n{n}", "image": {"bytes": png(n), "path": None}} for n in range(2)]
    asked = [{"id": str(n), "imageId": f"n{n % 2}", "question": f"q{n}", "answer": "a"} for n in range(3)]
    paths = [write_parquet(tmp_path / "images.parquet", images), write_parquet(tmp_path / "questions.parquet", asked)]
    rows = read_rows(paths)
    assert [row.values["question"] for row in rows] == ["q0", "q1", "q2"]
    assert [colours_of(row) for row in rows] == [[COLOURS[0]], [COLOURS[1]], [COLOURS[0]]]


NOISE = base64.b64encode(
    encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)))
).decode()
GOOD = {"index": 0, "question": "a", "image": base64_png(0)}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"index": 1, "text": "a"}], "there is no column question in its first line"),
        ([GOOD, {"index": 1, "question": "b", "image": ""}], "row 3: it has no image"),
        ([GOOD, {"index": 1, "question": "b", "image": "17"}], "row 3: its image is that of index '17', which is not"),
        ([GOOD, {"index": 1, "question": "b", "image": "[" + base64_png(0)}], "row 3: its images are not a list"),
    ],
)
def test_a_broken_row_of_a_tsv_is_one_line(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_rows([write_tsv(tmp_path / "t.tsv", rows)])


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "t.tsv", [GOOD])
    text = path.read_text()
    path.write_text(text + "1\tb\n")
    with pytest.raises(UserError, match=r"t\.tsv: row 3 has 2 columns, the first line has 3"):
        read_rows([path])
    path.write_bytes(text.encode() + b"1\t\xff\xfe\tx\n")
    with pytest.raises(UserError, match=r"t\.tsv: row 3 cannot be read"):
        read_rows([path])
    path.write_text(text + '1\t"never closed\tx\n')
    with pytest.raises(UserError, match=r"t\.tsv: row 3 cannot be read \(unexpected end"):
        read_rows([path])
    parquet = tmp_path / "p.parquet"
    parquet.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"p\.parquet is not a readable Parquet file"):
        read_rows([parquet])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("*" * 100, r"row 2: the image cannot be read \(Only base64 data"),
        ("QUJD" * 30, "row 2: the image is not an image of the formats"),
        (NOISE[: 4 * (len(NOISE) // 8)], "row 2: the image cannot be decoded"),
    ],
)
def test_a_broken_image_is_one_line_with_its_row(tmp_path: Path, image: str, message: str) -> None:
    [row] = read_rows([write_tsv(tmp_path / "t.tsv", [{"index": 0, "question": "a", "image": image}])])
    with pytest.raises(UserError, match=message):
        row.images[0].read()


def test_files_are_found_by_the_first_pattern_and_missing_ones_named(tmp_path: Path) -> None:
    patterns = ("POPE.tsv", "pope/*.tsv", "pope/*.parquet")
    with pytest.raises(UserError, match="there is no such folder"):
        find_files(tmp_path / "none", "pope", patterns)
    with pytest.raises(UserError, match=r"has no data of pope: none of POPE\.tsv, pope/\*\.tsv, pope/\*\.parquet is"):
        find_files(tmp_path, "pope", patterns)
    (tmp_path / "pope").mkdir()
    for name in ("b.parquet", "a.parquet"):
        (tmp_path / "pope" / name).touch()
    assert [path.name for path in find_files(tmp_path, "pope", patterns)] == ["a.parquet", "b.parquet"]
    (tmp_path / "POPE.tsv").touch()
    assert [path.name for path in find_files(tmp_path, "pope", patterns)] == ["POPE.tsv"]
