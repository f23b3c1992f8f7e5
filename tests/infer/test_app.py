"""The app in a real browser: an image is asked about, one is drawn, and nothing is fetched from elsewhere."""

from __future__ import annotations

import io
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from janus_train.errors import UserError
from janus_train.infer.engine import Engine
from janus_train.infer.load import LoadedModel
from tests.helpers import in_letters

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium"),
]
gradio = pytest.importorskip("gradio", reason="the extra gradio is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

WAIT = 120_000
"""Milliseconds for an answer or a drawing on a loaded machine."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def loaded(random_base: Path) -> LoadedModel:
    """A random model that answers in letters."""
    return in_letters(random_base)


@pytest.fixture(scope="module")
def address(loaded: LoadedModel) -> Iterator[tuple[str, int]]:
    from janus_train.infer.app import serving
    from janus_train.infer.app_limits import AppLimits

    port = free_port()
    with Engine(loaded) as engine, serving(engine, "my/model", "127.0.0.1", port, AppLimits(max_upload_mb=1)):
        yield f"http://127.0.0.1:{port}", port


@pytest.fixture
def browser(address: tuple[str, int]) -> Iterator[tuple[Any, set[str]]]:
    """The page, opened, and the hosts that it asked for anything."""
    hosts: set[str] = set()
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or "127.0.0.1"))
        page.goto(address[0])
        page.get_by_role("button", name="Draw").wait_for()
        yield page, hosts
        chromium.close()


def test_asking_and_drawing(browser: tuple[Any, set[str]], loaded: LoadedModel, tmp_path: Path) -> None:
    page, hosts = browser
    blue = Image.new("RGB", (40, 30), (0, 90, 200))
    blue.save(tmp_path / "blue.png")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "blue.png")
    page.locator(".grid-wrap img").first.wait_for()  # the preview: the upload has come through
    page.get_by_label("Question").fill("What colour is it?")
    page.get_by_label("number input for Longest answer, in tokens").fill("8")
    page.get_by_role("button", name="Ask").click()
    asked = [{"role": "user", "content": "<image_placeholder>\nWhat colour is it?"}]
    expected = "".join(loaded.chat(asked, [blue], 8))
    assert expected.isalpha()
    sync_api.expect(page.get_by_label("Answer", exact=True)).to_have_value(expected, timeout=WAIT)

    page.get_by_label("Prompt").fill("a dog")
    page.get_by_label("number input for Images").fill("2")
    page.get_by_label("Seed of the first").fill("7")
    page.get_by_role("button", name="Draw").click()
    sync_api.expect(page.locator(".caption-label")).to_have_text(["seed 7", "seed 8"], timeout=WAIT)
    page.screenshot(path=tmp_path / "page.png")
    sources = [image.get_attribute("src") for image in page.locator(".grid-wrap").last.locator("img").all()]
    images = [Image.open(io.BytesIO(page.request.get(source).body())) for source in sources]
    wanted = loaded.generate(["a dog"] * 2, seeds=[7, 8])
    assert len(images) == 2
    assert all(np.array_equal(got, want) for got, want in zip(images, wanted, strict=True))
    assert hosts == {"127.0.0.1"}, "the page needs no network"


def test_mistakes_are_told(browser: tuple[Any, set[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On the page, not as tracebacks in the terminal; and what is on the page stays."""
    page, _ = browser
    page.get_by_text("my/model").wait_for()
    ask, draw = (page.get_by_role("button", name=name) for name in ("Ask", "Draw"))
    draw.click()
    page.get_by_text("Write what to draw first.").wait_for()
    ask.click()
    page.get_by_text("Write a question first.").wait_for()
    page.get_by_label("Prompt").fill("a dog")
    page.get_by_label("Seed of the first").fill("")
    draw.click()
    page.get_by_text("The seed must be a whole number from 0").wait_for()
    page.get_by_label("Seed of the first").fill("3")
    page.get_by_label("Prompt").fill("<image_placeholder> a dog")
    draw.click()
    page.get_by_text("1 <image_placeholder> but 0 images").wait_for()
    page.get_by_label("Question").fill("word " * 1900)
    ask.click()
    page.get_by_text("do not fit the context of 1024").wait_for()
    (tmp_path / "broken.png").write_text("no image")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "broken.png")
    page.locator(".grid-wrap img").first.wait_for()
    page.get_by_label("Question").fill("What is it?")
    ask.click()
    page.get_by_text("broken.png cannot be read as an image").wait_for()
    sync_api.expect(page.get_by_label("Answer", exact=True)).to_have_value("")
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_taken_port_is_one_line(address: tuple[str, int], loaded: LoadedModel) -> None:
    from janus_train.infer.app import serving
    from janus_train.infer.app_limits import AppLimits

    with (
        pytest.raises(UserError, match=r"http://127\.0\.0\.1:\d+ cannot be served \(Address already in use\)"),
        serving(Engine(loaded), "my/model", "127.0.0.1", address[1], AppLimits()),
    ):
        pass


def test_limits_are_told_on_the_page(browser: tuple[Any, set[str]], tmp_path: Path) -> None:
    """Before anything is sent, and when it is too much."""
    page, _ = browser
    page.get_by_text("At most 16 images of 1 MB and 25 megapixels each").wait_for()
    (tmp_path / "large.png").write_bytes(bytes(1_500_000))
    page.locator("input[type=file]").first.set_input_files(tmp_path / "large.png")
    page.get_by_text("exceed").first.wait_for()
    page.get_by_label("Prompt").fill("a dog " * 2_000)
    page.get_by_role("button", name="Draw").click()
    page.get_by_text("the text has 12,000 characters, at most 10,000 are taken").wait_for()
    page.get_by_label("Prompt").fill("a dog " * 200_000)
    page.get_by_role("button", name="Draw").click()
    page.get_by_text("the request is too long. At most 16 images").wait_for()
