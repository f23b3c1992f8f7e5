"""`janus-train tokenize`: the codes are the encoder's, nothing else changes, and training is the same with them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from janus_train.data.cached_codes import check_codes
from janus_train.data.images import generation_pixels, to_float, understanding_pixels
from janus_train.data.loader import open_recipe
from janus_train.data.shards.index import index_path, read_head, read_listing
from janus_train.data.shards.scan import write_index
from janus_train.data.shards.vq_codes import RECORD, CodesOrigin
from janus_train.data.sources.shards import ShardSource
from janus_train.data.types import IMAGE_CODE
from janus_train.datatools.inspect.drawn import open_run_data
from janus_train.datatools.inspect.page import Page
from janus_train.demo.objects import UNIT
from janus_train.errors import UserError
from janus_train.interop.vq_encoder import load_code_encoder
from janus_train.model import janus as janus_module
from janus_train.model.vq import encode_images
from janus_train.train.run import run as train
from tests.datatools.tokenize.conftest import noise
from tests.helpers import Run, config_of, encoded, make_shard, plain_image, read_lines
from tests.pages.parsed import Page as ParsedPage
from tests.train.conftest import SMALL


def files(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def wanted_codes(base: Path, source: ShardSource) -> list[list[np.ndarray]]:
    encoder = load_code_encoder(base, torch.device("cpu"))
    all_codes = []
    for i in range(len(source)):
        pixels = [torch.from_numpy(to_float(generation_pixels(p, UNIT))) for p in source[i].images]
        all_codes.append([encode_images(encoder.vqmodel, p[None])[0].numpy() for p in pixels])
    return all_codes


def test_codes_are_the_encoders_and_all_else_is_as_it_was(run: Run, shards: list[Path], random_base: Path) -> None:
    before = ShardSource(shards)
    records = [before[i] for i in range(len(before))]
    expected_codes = wanted_codes(random_base, before)
    code, output, error_output = run("tokenize", shards[0].parent, "--model", random_base)
    assert code == 0, error_output
    assert output == "3 of 3 tars tokenized (14 images)\n" and error_output.count("images in") == 3
    after = ShardSource(shards)
    assert len({tuple(codes.tolist()) for of in expected_codes for codes in of}) == 14, (
        "the images have codes of their own"
    )
    for i, old in enumerate(records):
        new = after[i]
        assert (new.key, new.fields) == (old.key, old.fields)
        assert all(np.array_equal(a, b) for a, b in zip(new.images, old.images, strict=True))
        assert [c.tolist() for c in new.codes if c is not None] == [c.tolist() for c in expected_codes[i]]
    origin = str(load_code_encoder(random_base, torch.device("cpu")).origin)
    assert set(after.codes_origins) == {origin}
    assert {head.codes for head in read_listing(shards[0].parent).values()} == {origin}
    assert sorted(p.name for p in shards[0].parent.iterdir()) == sorted(
        ["shards.json", *(t.name for t in shards), *(index_path(t).name for t in shards)]
    ), "nothing is left over"


def test_the_tar_stays_a_webdataset(run: Run, shards: list[Path], random_base: Path) -> None:
    import webdataset

    run("tokenize", shards[0], "--model", random_base)
    with tarfile.open(shards[0]) as file:
        names = file.getnames()
        assert names[0] == RECORD and "notes.xml" in names and "two.0.codes.npy" in names
        record = json.loads(file.extractfile(RECORD).read())  # type: ignore[union-attr]
        data = file.extractfile("00.codes.npy").read()  # type: ignore[union-attr]
    assert record["image_size"] == UNIT and len(record["encoder"]) == 64
    assert b"'<u2'" in data[:64]
    samples = list(webdataset.WebDataset(str(shards[0]), shardshuffle=False))
    assert [s["__key__"] for s in samples] == ["00", "01", "02", "03", "two", "none", "notes"]
    assert all("codes.npy" in s for s in samples[:4]) and {"0.codes.npy", "1.codes.npy"} <= set(samples[4])
    head = read_head(shards[0])
    write_index(shards[0])
    assert read_head(shards[0]) == head, "an index made anew knows where the codes come from"


def test_the_same_command_again_changes_nothing(run: Run, shards: list[Path], random_base: Path) -> None:
    run("tokenize", shards[0].parent, "--model", random_base)
    before = files(shards[0].parent)
    times = [tar.stat().st_mtime_ns for tar in shards]
    code, output, _ = run("tokenize", *shards, "--model", random_base)
    assert code == 0 and output == "0 of 3 tars tokenized (0 images); 3 had nothing to do\n"
    assert files(shards[0].parent) == before and [tar.stat().st_mtime_ns for tar in shards] == times


def write_recipe(folder: Path, *, paths: list[str], kind: str = "generation", template: str = "text_to_image") -> Path:
    sources: list[dict[str, Any]] = [
        {"name": "draw", "kind": kind, "type": "shards", "template": template, "weight": 1, "paths": paths},
        {
            "name": "look",
            "kind": "understanding",
            "type": "shards",
            "template": "image_caption",
            "weight": 1,
            "paths": paths,
        },
    ]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "own", "licence": "none", "sources": sources}))
    return path


def test_training_is_the_same_with_and_without_the_cache(
    run: Run, shards: list[Path], random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, paths=["shards/s-1.tar", "shards/s-2.tar"])
    words = ["+stage=1", f"init_from={random_base}", f"data.recipe={recipe}", "run.steps=3", *SMALL]
    batch_sizes: list[int] = []

    def counting_encode(vqmodel: Any, pixels: torch.Tensor) -> torch.Tensor:
        batch_sizes.append(len(pixels))
        return encode_images(vqmodel, pixels)

    monkeypatch.setattr(janus_module, "encode_images", counting_encode)
    train(config_of(*words, f"output_dir={tmp_path / 'without'}"))
    assert sum(batch_sizes) > 0
    batch_sizes.clear()
    code, _, error_output = run("tokenize", recipe, "--model", random_base)
    assert code == 0, error_output
    assert read_head(shards[0]).codes == "", "it is in no source"
    train(config_of(*words, f"output_dir={tmp_path / 'with'}"))
    assert batch_sizes == [], "no code was made while training"

    def codes_of_tar(name: str) -> list[Any]:
        lines = read_lines(tmp_path / name / "metrics.jsonl")
        return [[line[k] for k in ("step", "loss", "loss/generation", "grad_norm", "batch_digest")] for line in lines]

    assert codes_of_tar("with") == codes_of_tar("without") and len(codes_of_tar("with")) == 3
    a, b = (load_file(tmp_path / name / "final/model.safetensors") for name in ("with", "without"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def other_base(random_base: Path, tmp_path: Path) -> Path:
    """The same model with another encoder."""
    other = tmp_path / "other_base"
    shutil.copytree(random_base, other)
    weights = load_file(other / "model.safetensors")
    weights["model.vqmodel.quant_conv.weight"] *= -1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    return other


def test_codes_of_another_encoder_are_refused_and_can_be_replaced(
    run: Run, shards: list[Path], random_base: Path, other_base: Path
) -> None:
    run("tokenize", shards[0].parent, "--model", random_base)
    first = [[c.tolist() for c in ShardSource(shards)[i].codes if c is not None] for i in range(14)]
    before = files(shards[0].parent)
    code, output, error_output = run("tokenize", shards[0].parent, "--model", other_base)
    assert code == 2 and not output and error_output.count("\n") == 1 and "--replace replaces them" in error_output
    assert files(shards[0].parent) == before
    code, output, _ = run("tokenize", shards[0].parent, "--model", other_base, "--replace")
    assert code == 0 and output.startswith("3 of 3")
    source = ShardSource(shards)
    second = [[c.tolist() for c in source[i].codes if c is not None] for i in range(14)]
    assert [len(of) for of in first] == [len(of) for of in second] and first[0] != second[0]
    run("tokenize", shards[0].parent, "--model", random_base, "--replace")
    assert files(shards[0].parent) == before, "back to the very bytes"


def test_training_refuses_codes_that_are_not_the_models(
    run: Run, shards: list[Path], random_base: Path, other_base: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, paths=["shards/*.tar"])
    config = config_of("+stage=1", f"data.recipe={recipe}")
    own_origin = load_code_encoder(random_base, torch.device("cpu")).origin
    check_codes(open_recipe(config), own_origin)  # no codes: nothing to refuse
    run("tokenize", recipe, "--model", random_base)
    check_codes(open_recipe(config), own_origin)
    with pytest.raises(UserError, match=r"'draw': the cached codes in .*s-0.tar come from another encoder") as error:
        check_codes(open_recipe(config), load_code_encoder(other_base, torch.device("cpu")).origin)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="another encoder or image size"):
        check_codes(open_recipe(config), CodesOrigin(own_origin.encoder, 128))


def test_codes_of_unknown_origin_are_refused(run: Run, tmp_path: Path, random_base: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(64, np.uint16))
    members = {"a.json": {"caption": "x"}, "a.png": noise(1), "a.codes.npy": buffer.getvalue()}
    tar = make_shard(tmp_path / "x.tar", members)  # type: ignore[arg-type]
    config = config_of("+stage=1", f"data.recipe={write_recipe(tmp_path, paths=['x.tar'])}")
    with pytest.raises(UserError, match="unknown"):
        check_codes(open_recipe(config), CodesOrigin("0" * 64, 64))
    code, _, error_output = run("tokenize", tar, "--model", random_base)
    assert code == 2 and "another origin (unknown" in error_output
    assert run("tokenize", tar, "--model", random_base, "--replace")[0] == 0
    assert ShardSource([tar])[0].codes[0].tolist() != [0] * 64  # type: ignore[union-attr]


def test_images_that_cannot_be_decoded_get_no_codes(run: Run, tmp_path: Path, random_base: Path) -> None:
    truncated_data = noise(2)[:200]
    members = {
        "a.json": {"caption": "x"},
        "a.png": noise(1),
        "b.json": {"caption": "y"},
        "b.png": truncated_data,
        "c.json": {},
        "c.png": b"x",
    }
    tar = make_shard(tmp_path / "x.tar", members)  # type: ignore[arg-type]
    code, output, error_output = run("tokenize", tar, "--model", random_base)
    assert code == 0 and "(1 images); 2 images without codes" in output and "the first in 'b'" in error_output, (
        error_output
    )
    assert ShardSource([tar])[0].codes[0] is not None
    assert "had nothing to do" in run("tokenize", tar, "--model", random_base)[1]


def test_a_damaged_tar_is_left_and_the_others_follow(run: Run, shards: list[Path], random_base: Path) -> None:
    data = bytearray(shards[1].read_bytes())
    data[700] ^= 1
    shards[1].write_bytes(bytes(data))
    truncated_data = shards[2].read_bytes()[:-512]
    shards[2].write_bytes(truncated_data)
    code, output, error_output = run("tokenize", *shards, "--model", random_base)
    assert code == 1 and "1 of 3 tars tokenized" in output and "2 failed" in output
    assert (
        "error: shard" in error_output
        and "differ from those that were indexed" in error_output
        and "its index says" in error_output
    )
    assert shards[1].read_bytes() == bytes(data) and shards[2].read_bytes() == truncated_data
    assert not list(shards[0].parent.glob(".*"))


def test_generation_sources_that_keep_no_codes_are_named(run: Run, shards: list[Path], random_base: Path) -> None:
    path = write_recipe(shards[0].parent, paths=[shards[1].name])
    (shards[0].parent / "x.jsonl").write_text('{"image": "x.png", "caption": "x"}\n')
    values = yaml.safe_load(path.read_text())
    values["sources"].append(values["sources"][0] | {"name": "lines", "type": "jsonl", "paths": ["x.jsonl"]})
    path.write_text(yaml.safe_dump(values))
    code, output, notes = run("tokenize", path, "--model", random_base)
    assert code == 0 and output.startswith("1 of 1 tars tokenized")
    assert "note: no codes for lines: only sources of type shards keep codes" in notes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["NOWHERE", "--model", "BASE"], "NOWHERE: there is nothing"),
        (["FOLDER", "--model", "BASE"], "it is neither a .tar nor a folder with .tar files"),
        (["TAR"], "Missing option '--model'"),
        (["TAR", "--model", "NOWHERE"], "NOWHERE: there is no such folder"),
        (["TAR", "--model", "FOLDER"], "config.json is missing"),
        (["TAR", "--model", "BASE", "--device", "tpu"], "--device tpu is unknown"),
        (["TAR", "--model", "BASE", "--num-processes", "2", "--process-index", "2"], "process 2 of 2 does not exist"),
        (["https://example.org/x.tar", "--model", "BASE"], "copy the shards to a disk"),
        (["text.yaml", "--model", "BASE"], "of kind generation and type shards"),
        (["broken.yaml", "--model", "BASE"], "is not valid YAML"),
    ],
)
def test_mistakes_are_one_line(
    run: Run, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    make_shard(tmp_path / "TAR.tar", {"a.json": {"caption": "x"}, "a.png": encoded(plain_image())})
    sources = [{"name": "t", "kind": "text", "type": "shards", "template": "text", "weight": 1, "paths": ["TAR.tar"]}]
    (tmp_path / "text.yaml").write_text(yaml.safe_dump({"name": "t", "licence": "-", "sources": sources}))
    (tmp_path / "broken.yaml").write_text("sources: [")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    arguments = [{"BASE": str(random_base), "TAR": "TAR.tar"}.get(word, word) for word in words]
    code, output, error_output = run("tokenize", *arguments)
    assert code == 2 and not output and error_output.count("\n") == 1 and message in error_output, error_output
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_a_tar_without_an_index_is_named(run: Run, random_base: Path, tmp_path: Path) -> None:
    tar = make_shard(tmp_path / "x.tar", {"a.json": {"caption": "x"}, "a.png": noise(1)}, index=False)
    code, _, error_output = run("tokenize", tar, "--model", random_base)
    assert code == 1 and "janus-train index" in error_output


def test_interleaved_documents_train_on_cached_codes_and_the_page_shows_the_images_of_their_pieces(
    run: Run, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents of three images, each drawn and looked at, come in pieces of at most two images."""
    members: dict[str, Any] = {}
    for number in range(4):
        members[f"d{number}.json"] = {
            "text": f"A <image_placeholder> B <image_placeholder> {number}<image_placeholder>"
        }
        members |= {f"d{number}.{place}.png": noise(10 * number + place) for place in range(3)}
    make_shard(tmp_path / "d.tar", members)
    source = {"name": "pages", "kind": "generation", "type": "shards", "template": "interleaved", "images": "both"}
    recipe = tmp_path / "recipe.yaml"
    values = {"name": "own", "licence": "none", "sources": [source | {"weight": 1, "paths": ["d.tar"]}]}
    recipe.write_text(yaml.safe_dump(values))
    ratio = ("ratio.understanding=0", "ratio.text=0")
    words = ["+stage=2", f"init_from={random_base}", f"data.recipe={recipe}", "run.steps=4", *SMALL, *ratio]
    words.append("batch.row_tokens=150")
    train(config_of(*words, f"output_dir={tmp_path / 'without'}"))
    code, output, error_output = run("tokenize", recipe, "--model", random_base)
    assert code == 0 and output == "1 of 1 tars tokenized (12 images)\n", error_output
    monkeypatch.setattr(janus_module, "encode_images", no_images)
    train(config_of(*words, f"output_dir={tmp_path / 'with'}"))
    keys = ("step", "loss", "loss/text", "loss/generation", "batch_digest")
    lines = [
        [[line[k] for k in keys] for line in read_lines(tmp_path / f"{n}/metrics.jsonl")] for n in ("with", "without")
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 4

    steps = list(open_run_data(config_of(*words)).steps(1, 6))
    documents = [d for _, rows in steps for row in rows for d in row.documents]
    assert all(d.reference.piece for d in documents) and len({len(d.record_images) for d in documents}) > 1
    page = Page(open_run_data(config_of(*words)))
    for step, rows in steps:
        page.add(step, rows)
    shown = [pixels_of(a["src"]) for tag, a in ParsedPage(page.html()).tags if tag == "img"]
    expected = []
    for document in documents:
        record = ShardSource([tmp_path / "d.tar"])[document.reference.index]
        kinds = [document.modality[start + 1] for start, _ in document.image_spans]
        for number, kind in zip(document.record_images, kinds, strict=True):
            resize = generation_pixels if kind == IMAGE_CODE else understanding_pixels
            expected.append(resize(record.images[number], UNIT))
    assert len(shown) == len(expected) > 12
    assert all(np.array_equal(a, b) for a, b in zip(shown, expected, strict=True))

    code, output, error_output = run("verify", recipe, "--model", random_base, "--row-tokens", "150")
    assert code == 0 and "4 cut over several rows" in output + error_output
    source |= {"images": "in", "kind": "understanding"}
    recipe.write_text(yaml.safe_dump(values | {"sources": [source | {"weight": 1, "paths": ["d.tar"]}]}))
    code, _, error_output = run("tokenize", recipe, "--model", random_base)
    assert code == 2 and "none of the 1 sources is of kind generation" in error_output


def no_images(vqmodel: Any, pixels: torch.Tensor) -> torch.Tensor:
    assert not len(pixels), "a code was made while training"
    return encode_images(vqmodel, pixels)


def pixels_of(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image)
