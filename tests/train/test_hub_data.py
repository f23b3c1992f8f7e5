"""Training on a data set of the hub: the same rows after a stop, and no resume on data that has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from janus_train.config import Config
from janus_train.errors import UserError
from janus_train.train.run import run as train
from tests.data.storage.fake_hub import FakeHub, use_fake_hub
from tests.helpers import encoded, plain_image, read_lines

WORDS = ("ratio.understanding=0", "ratio.text=0", "precision=fp32", "run.checkpoint_every=2", "run.keep_checkpoints=1")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    """Three files of two row groups."""
    hub = use_fake_hub(tmp_path, monkeypatch)
    folder = hub.root / "people/pets/data"
    folder.mkdir(parents=True)
    for number in range(3):
        rows = range(number * 6, number * 6 + 6)
        images = [{"bytes": encoded(plain_image((9 * i, 40, 200 - 9 * i))), "path": None} for i in rows]
        table = pa.table({"text": [f"pet {i}" for i in rows], "jpg": images})
        pq.write_table(table, folder / f"train-0000{number}-of-00003.parquet", row_group_size=3)
    return hub


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resume_goes_on_with_the_same_rows(
    hub: type[FakeHub], small: Callable[..., Config], tmp_path: Path, num_workers: int
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: r\nlicence: mine\nsources:\n  - {name: pets, kind: generation, type: hf_dataset, path: people/pets, "
        "template: text_to_image, weight: 1, columns: {caption: text, image: jpg}}\n"
    )
    words = (*WORDS, f"data.recipe={recipe}", f"data.num_workers={num_workers}")

    def steps(folder: str, number: int) -> list[tuple[str, float]]:
        config = small(2, *words, f"output_dir={tmp_path / folder}", f"run.steps={number}", "run.planned_steps=6")
        return [(line["batch_digest"], line["loss"]) for line in read_lines(train(config) / "metrics.jsonl")]

    whole = steps("whole", 6)
    assert steps("parts", 2) == whole[:2]
    assert steps("parts", 4) == whole[:4]
    path = hub.root / "people/pets/data/train-00002-of-00003.parquet"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"pet 17", b"pet 71"))
    with pytest.raises(UserError, match="pets"):
        steps("parts", 6)
    path.write_bytes(data)
    assert steps("parts", 6) == whole
