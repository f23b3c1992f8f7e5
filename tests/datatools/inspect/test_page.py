"""The page of rows: whole, safe, of bounded size, and readable in a browser."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from janus_train.datatools.inspect import page as page_module
from janus_train.datatools.inspect.drawn import RunData, open_run_data
from janus_train.datatools.inspect.page import Page
from janus_train.demo.objects import CELL, UNIT
from tests.helpers import config_of, encoded, make_shard, plain_image
from tests.pages.parsed import Page as ParsedPage
from tests.train.conftest import SMALL

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ATTACK = "</s><script>alert(1)</script> & <img src=http://x/y.png>"


@pytest.fixture
def data(random_base: Path, tmp_path: Path) -> RunData:
    """A stage 2 of own shards: captions with mark-up in them, images, texts."""
    members: dict[str, bytes | dict[str, str]] = {}
    for n in range(6):
        members |= {
            f"p{n}.json": {"caption": f"{ATTACK} {n}"},
            f"p{n}.png": encoded(plain_image((40 * n, 90, 10), (90, 60))),
        }
    make_shard(tmp_path / "pictures.tar", members)  # type: ignore[arg-type]
    make_shard(tmp_path / "texts.tar", {f"t{n}.json": {"text": f"line {n}\n\nline two 苹果"} for n in range(6)})
    sources = [
        {"name": "look", "kind": "understanding", "template": "image_describe", "paths": ["pictures.tar"]},
        {"name": "draw", "kind": "generation", "template": "text_to_image", "paths": ["pictures.tar"]},
        {"name": "read", "kind": "text", "template": "text", "paths": ["texts.tar"]},
    ]
    recipe = {"name": "own", "licence": "none", "sources": [s | {"type": "shards", "weight": 1} for s in sources]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    overrides = ("+stage=2", f"data.recipe={tmp_path / 'recipe.yaml'}", f"init_from={random_base}", *SMALL)
    return open_run_data(
        config_of(*overrides, "batch.row_tokens=512", "data.guidance_dropout=0", "data.first_sentence=0")
    )


def build_page(data: RunData, steps: int = 2, **limits: int) -> Page:
    page = Page(data, **limits)
    for step, rows in data.steps(1, steps):
        page.add(step, rows)
    return page


def test_the_page_shows_rows_samples_images_and_tokens(data: RunData) -> None:
    steps, num_codes = list(data.steps(1, 2)), (UNIT // CELL) ** 2
    page = ParsedPage(build_page(data).html())
    documents = [d for _, rows in steps for row in rows for d in row.documents]
    of = lambda tag, css: [a for t, a in page.tags if t == tag and css in (a.get("class") or "").split()]  # noqa: E731
    assert len(of("details", "row")) == 4 and len(of("span", "strip")) == 5  # one is the legend's
    assert len(of("article", "sample")) == len(documents)
    assert sum("width" in (a.get("style") or "") for t, a in page.tags if t == "i") == len(documents) + 3
    assert len(of("figure", "seen")) == sum(d.kind != "text" for d in documents)
    assert len(of("figure", "has_loss")) == sum(d.kind == "generation" for d in documents)
    for step, rows in steps:
        assert f"Step {step}" in page.text
        for row in rows:
            assert row.digest in page.text and f"{100 * row.num_tokens / 512:.1f} %" in page.text
    for d in documents:
        assert d.reference.key in page.text
    assert f"image loss at {num_codes}: <begin_of_image> and codes 0 to {num_codes - 2}" in page.text
    assert {a["href"][1:] for t, a in page.tags if t == "a"} == {"step-1", "step-2"}
    assert not build_page(data).omissions


def test_images_are_what_the_encoders_see(data: RunData) -> None:
    page = ParsedPage(build_page(data, 1).html())
    image_uris = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(a["src"].split(",", 1)[1]))))
        for t, a in page.tags
        if t == "img"
    ]
    expected_pixels = []
    for row in next(data.steps(1, 1))[1]:
        for d in row.documents:
            expected_pixels += [*d.understanding_pixels, *(p for p in d.generation_pixels if p is not None)]
    assert len(image_uris) == len(expected_pixels) > 0
    assert all(np.array_equal(a, b) for a, b in zip(image_uris, expected_pixels, strict=True))


def test_data_cannot_become_mark_up_and_nothing_is_fetched(data: RunData) -> None:
    html = build_page(data).html()
    page = ParsedPage(html)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe")]
    assert all(a["src"].startswith("data:image/png;base64,") and a["alt"] for t, a in page.tags if t == "img")
    assert "url(" not in html and "@import" not in html and "<script" not in html
    assert "<script>alert(1)" in "".join(page.text.split()), "the words are there all the same"


def test_text_is_there_token_by_token(data: RunData) -> None:
    html = build_page(data, 3).html()
    assert re.search(r"<u>line</u>|<u>l</u>", html), "text has a loss"
    assert "<em>↵</em><em>↵</em>\n" in html or "<em>↵</em></u><u><em>↵</em>\n" in html
    assert "苹" in html


def test_what_reorders_text_is_shown_escaped(random_base: Path, tmp_path: Path) -> None:
    make_shard(tmp_path / "x.tar", {f"k{n}.json": {"text": f"a\u202eb\x1b[2J {n}"} for n in range(8)})
    source = {"name": "read", "kind": "text", "type": "shards", "template": "text", "weight": 1, "paths": ["x.tar"]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"name": "own", "licence": "none", "sources": [source]}))
    ratio = ("ratio.understanding=0", "ratio.generation=0")
    config = config_of("+stage=2", f"data.recipe={tmp_path / 'r.yaml'}", f"init_from={random_base}", *SMALL, *ratio)
    html = build_page(open_run_data(config), 1).html()
    assert "\u202e" not in html and "\x1b" not in html and "\\u202e" in html and "\\x1b" in html


def test_a_page_too_large_is_cut_and_says_so(data: RunData) -> None:
    page_of_one = build_page(data, 2, max_bytes=1)
    parsed_page = ParsedPage(page_of_one.html())
    assert (
        page_of_one.omissions == "3 rows cannot be opened: the page would be too large"
        and page_of_one.omissions in parsed_page.text
    )
    assert sum(t == "details" and a.get("class") == "row" for t, a in parsed_page.tags) == 1
    assert sum(t == "span" and a.get("class") == "strip" for t, a in parsed_page.tags) == 5
    short_page = build_page(data, 3, max_strips=2)
    assert "2 steps are left out" in short_page.omissions and "Step 2" not in ParsedPage(short_page.html()).text


def test_the_asked_ratio_stands_at_what_it_counts(data: RunData) -> None:
    in_samples = build_page(data, 1).html()
    config = data.config.model_copy(update={"ratio": data.config.ratio.model_copy(update={"unit": "tokens"})})
    in_tokens = build_page(replace(data, config=config), 1).html()
    for html, requested_unit, other_unit in ((in_samples, "samples", "tokens"), (in_tokens, "tokens", "samples")):
        lines = {m[1]: m[0] for m in re.finditer(r'<p class="mixture">(\w+): .*?</p>', html)}
        assert "requested 50 %" in lines[requested_unit] and "requested" not in lines[other_unit]


def test_samples_that_cannot_be_used_are_listed(random_base: Path, tmp_path: Path) -> None:
    make_shard(tmp_path / "x.tar", {f"k{n}.json": {"text": "<b>words</b>" * (n % 2)} for n in range(8)})
    source = {"name": "read", "kind": "text", "type": "shards", "template": "text", "weight": 1, "paths": ["x.tar"]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"name": "own", "licence": "none", "sources": [source]}))
    ratio = ("ratio.understanding=0", "ratio.generation=0")
    config = config_of("+stage=2", f"data.recipe={tmp_path / 'r.yaml'}", f"init_from={random_base}", *SMALL, *ratio)
    page = ParsedPage(build_page(open_run_data(config), 1).html())
    assert "Quarantined" in page.text and "field 'text' is empty" in page.text


def test_limits_keep_a_page_openable() -> None:
    assert page_module.MAX_BYTES <= 64 << 20 and page_module.MAX_STRIPS <= 10_000


def _chromium(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    base = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    return subprocess.run([*base, *words], capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.chromium
@pytest.mark.skipif(CHROMIUM is None, reason="needs a headless Chromium")
def test_in_chromium_it_fits_a_phone_and_turns_dark(data: RunData, tmp_path: Path) -> None:
    html = build_page(data).html().replace("<details", "<details open")
    probe = "<script>document.title = [innerWidth, document.documentElement.scrollWidth].join(' ')</script>"
    html = html.replace("</body>", f"{probe}</body>").replace("http-equiv", "name")  # the page forbids scripts
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    url = (tmp_path / "page.html").as_uri()
    dom = _chromium("--window-size=390,1600", "--dump-dom", url, folder=tmp_path).stdout
    title = re.search(r"<title>(\d+) (\d+)</title>", dom)
    assert title and int(title[2]) <= int(title[1]), f"wider than the screen: {title and title[0]}"
    means = []
    for name, words in (("light", ()), ("dark", ("--force-dark-mode",))):
        target = tmp_path / f"{name}.png"
        _chromium("--window-size=1200,900", "--hide-scrollbars", *words, f"--screenshot={target}", url, folder=tmp_path)
        means.append(np.asarray(Image.open(target).convert("L")).mean())
    assert means[0] > 180 and means[1] < 100
