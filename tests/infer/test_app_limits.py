"""What the app takes, and for how long it works: by its functions, and by requests of which no browser would think."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from janus_train.infer.app_limits import MAX_WAITING, AppLimits, remove_old_files, upload_folder
from tests.helpers import encoded, plain_image
from tests.infer.fake_page import FakeEngine, event_of

httpx = pytest.importorskip("httpx", reason="the extra gradio is not installed")
gradio = pytest.importorskip("gradio", reason="the extra gradio is not installed")


@pytest.mark.parametrize(
    ("name", "values", "line"),
    [
        ("ask", (None, "x" * 10_001, 8), "the text has 10,001 characters, at most 10,000 are taken"),
        ("ask", (None, "x", float("nan")), "the longest answer must be a number from 1 to 512"),
        ("ask", (None, "x", 10**9), "the longest answer must be a number from 1 to 512"),
        ("generate", ("x" * 50_000_000, 1, 0, 5, 1), "the text has 50,000,000 characters, at most 10,000 are taken"),
        ("generate", ("x", 10**6, 0, 5, 1), "the number of images must be a number from 1 to 16"),
        ("generate", ("x", "1", 0, 5, 1), "the number of images must be a number from 1 to 16"),
        ("generate", ("x", 1, 0, float("inf"), 1), "guidance must be a number from 1 to 10"),
        ("generate", ("x", 1, 0, 5, -1), "temperature must be a number from 0 to 2"),
        ("generate", ("x", 1, float("nan"), 5, 1), "The seed must be a whole number from 0"),
    ],
)
def test_what_no_slider_gives_is_told(name: str, values: tuple[Any, ...], line: str, told: list[str]) -> None:
    model = FakeEngine()
    result = event_of(model, name).fn(*values)
    if name == "ask":
        list(result)
    assert len(told) == 1 and told[0].startswith(line) and model.asked == 0


def test_old_files_go_and_the_rest_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name, age in (("a/old.png", 100), ("a/new.png", 0), ("broken_off", 100)):
        (tmp_path / name).write_bytes(b"12345")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert remove_old_files(tmp_path, 50) == (1, 5)
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new.png"]


def test_uploads_lie_in_a_folder_of_their_own_that_goes() -> None:
    before = os.environ.get("GRADIO_TEMP_DIR")
    with upload_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700 and os.environ["GRADIO_TEMP_DIR"] == str(folder)
        (folder / "x").mkdir()
    assert not folder.exists() and os.environ.get("GRADIO_TEMP_DIR") == before


# -- over the wire


@pytest.fixture(scope="module")
def model() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def client(model: FakeEngine) -> Iterator[Any]:
    from janus_train.infer.app import serving

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        serving(model, "my/model", "127.0.0.1", port, AppLimits(max_upload_mb=1)),  # type: ignore[arg-type]
        httpx.Client(base_url=f"http://127.0.0.1:{port}/gradio_api", timeout=60) as opened,
    ):
        yield opened
        model.may_go_on.set()


def upload(client: Any, data: bytes, name: str = "a.png") -> Any:
    return client.post("/upload", files={"files": (name, data)})


def join(client: Any, images: list[str], session: str = "s") -> Any:
    """Asks about files at ``images``, as the page's button does."""
    config = client.get(str(client.base_url).replace("gradio_api/", "config")).json()
    number = next(event["id"] for event in config["dependencies"] if event["api_name"] == "ask")
    gallery = [
        {"image": {"path": path, "meta": {"_type": "gradio.FileData"}}, "caption": None} for path in images
    ] or None
    body = {"data": [gallery, "What is it?", 8], "fn_index": number, "session_hash": session}
    return client.post("/queue/join", json=body)


def outcome(client: Any, session: str) -> dict[str, Any]:
    """The last message about a session's request."""
    with client.stream("GET", "/queue/data", params={"session_hash": session}) as messages:
        for line in messages.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("no end of it")


def refused(answer: Any, status: int, line: str) -> None:
    assert answer.status_code == status, answer.text
    assert line in answer.text and "\n" not in answer.text and "Traceback" not in answer.text


def test_an_upload_is_asked_about_and_lies_where_it_should(client: Any) -> None:
    path = upload(client, encoded(plain_image())).json()[0]
    assert Path(path).is_relative_to(os.environ["GRADIO_TEMP_DIR"])
    assert join(client, [path], "good").status_code == 200
    message = outcome(client, "good")
    assert message["success"] and "[(80, 60)]" in json.dumps(message)


def test_a_file_that_is_too_large_is_refused(client: Any) -> None:
    refused(upload(client, bytes(1_100_000)), 413, "File size exceeded maximum allowed size")
    refused(upload(client, bytes(17_500_000)), 413, "the upload is too large. At most 16 images of 1 MB")


def test_an_upload_of_unknown_length_is_refused(client: Any) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    refused(
        client.post("/upload", content=iter([b"--x\r\n"]), headers=headers), 411, "a request must say how long it is"
    )


def test_a_request_of_fifty_megabytes_is_refused_before_it_is_read(client: Any) -> None:
    refused(client.post("/queue/join", content=bytes(50_000_000)), 413, "the request is too long. At most 16 images")


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/etc/evil.png", "a\0b.png", "x" * 5000 + ".png", "<img src=x>.png"]
)
def test_a_hostile_name_stays_in_the_folder(client: Any, name: str) -> None:
    answer = upload(client, encoded(plain_image()), name)
    if answer.status_code == 200:
        path = Path(answer.json()[0])
        assert path.is_file() and path.resolve().is_relative_to(os.environ["GRADIO_TEMP_DIR"])
    else:
        assert 400 <= answer.status_code < 500


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "http://127.0.0.1:9/a.png", "https://example.com/a.png", "file:///etc/passwd"]
)
def test_only_uploads_are_asked_about(client: Any, model: FakeEngine, path: str) -> None:
    before = model.asked
    join(client, [path], path)
    message = outcome(client, path)
    assert not message["success"] and "root:" not in json.dumps(message) and model.asked == before
    if path.startswith("http"):
        assert message["output"]["error"] == "Upload the image: nothing is fetched from an address."


@pytest.mark.parametrize(
    "address",
    ["/file=http://127.0.0.1:9/x", "/file=https://example.com/x", "/proxy=https://example.com/x", "/file=/etc/passwd"],
)
def test_nothing_else_is_handed_out_or_fetched(client: Any, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 403 and "root:" not in answer.text


@pytest.mark.parametrize(
    "action", ["run/ask", "api/ask", "process_recording", "component_server", "stream/x", "vibe-edit"]
)
def test_nothing_goes_round_the_queue(client: Any, model: FakeEngine, action: str) -> None:
    before = model.asked
    refused(client.post(f"/{action}", json={"data": [None, "x", 8]}), 403, "the page's own requests")
    assert model.asked == before


def test_a_full_queue_refuses(client: Any, model: FakeEngine) -> None:
    model.may_go_on.clear()
    before = model.asked
    try:
        join(client, [], "first")
        deadline = time.monotonic() + 30
        while model.asked == before and time.monotonic() < deadline:
            time.sleep(0.05)
        answers = [join(client, [], "rest") for _ in range(MAX_WAITING + 1)]
    finally:
        model.may_go_on.set()
    assert [answer.status_code for answer in answers] == [200] * MAX_WAITING + [503]
    refused(answers[-1], 503, "Queue is full")


@pytest.mark.slow
def test_a_terminated_app_leaves_no_uploads(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = (
        "from tests.infer.fake_page import FakeEngine; from janus_train.infer import app, app_limits; "
        f"app.serve(FakeEngine(), 'm', '127.0.0.1', {port}, app_limits.AppLimits())"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline().startswith("http://127.0.0.1:")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/gradio_api", timeout=60) as client:
            kept = Path(upload(client, encoded(plain_image())).json()[0])
        assert kept.is_relative_to(tmp_path) and kept.is_file()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("janus-train-app-*"))
