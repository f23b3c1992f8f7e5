"""Who may use the server, what it lists, and what becomes of requests that no client sends."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from janus_train.infer.engine import Engine
from janus_train.paths import ROOT
from tests.helpers import plain_image
from tests.serve.serving import NAME, served, until, user

httpx = pytest.importorskip("httpx", reason="httpx is not installed")
BODY = {"model": NAME, "messages": user("Hello"), "max_tokens": 2}
KEY = "a-key"


def error_of(answer: Any) -> dict[str, Any]:
    """The error, which has OpenAI's form."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    assert "Traceback" not in answer.text
    return error


def test_the_models_and_health(client, http):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "janus_train"
    assert http.get("/health").json() == {"status": "ok", "waiting": 0}
    answer = http.get("/v1/models/other")
    assert answer.status_code == 404 and error_of(answer)["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/", "/v1", "/docs", "/openapi.json", "/v1/completions", "/v1/../etc/passwd"])
def test_there_is_nothing_else(http, path):
    answer = http.get(path)
    assert answer.status_code == 404 and error_of(answer)["message"].startswith("there is no GET /")
    assert http.post("/health").status_code == 405


@pytest.fixture(scope="module")
def locked(loaded):
    with Engine(loaded) as engine, served(engine, api_key=KEY) as address:
        yield address


def test_the_key_is_asked_for_before_the_body_is_read(locked):
    with httpx.Client(base_url=locked, timeout=60) as http:
        for headers in ({}, {"authorization": "Bearer other"}, {"authorization": KEY}, {"authorization": "Bearer"}):
            for answer in (
                http.post("/v1/chat/completions", json=BODY, headers=headers),
                http.post("/v1/images/generations", content=b"{", headers=headers),
                http.post("/v1/images/edits", content=b"", headers=headers),
                http.get("/v1/models", headers=headers),
                http.get(f"/v1/models/{NAME}", headers=headers),
            ):
                assert answer.status_code == 401 and error_of(answer)["type"] == "authentication_error"
        assert http.get("/v1/models", headers=[(b"authorization", b"Bearer \xe4\xff")]).status_code == 401
        assert http.get("/health").status_code == 200
        right = {"authorization": f"Bearer {KEY}", "origin": "https://page.example", "host": "model.example"}
        assert http.post("/v1/chat/completions", json=BODY, headers=right).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example", "origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:8000"}, 200),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
    ],
)
def test_pages_of_other_sites_have_no_use_of_a_server_without_a_key(http, headers, status):
    answer = http.post("/v1/chat/completions", json=BODY, headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert error_of(answer)["type"] == "permission_error"


def test_bodies_that_no_client_sends(http):
    def post(content: Any, **headers: str) -> tuple[int, str]:
        given = {"content-type": "application/json"} | {name.replace("_", "-"): v for name, v in headers.items()}
        answer = http.post("/v1/chat/completions", content=content, headers=given)
        return answer.status_code, error_of(answer)["message"]

    text = json.dumps(BODY).encode()
    assert post(text, content_type="text/plain") == (415, "the body must be application/json")
    assert post(iter([text])) == (411, "a request must say how long its body is (Content-Length)")
    assert post(bytes((1 << 20) + 1)) == (413, "the body has more than 1 MB")
    for wrong in (b"", b"{", b"\xff", b"[" * 100_000, b'{"n": 1' + b"0" * 10_000 + b"}", b'{"temperature": NaN}'):
        status, message = post(wrong)
        assert status == 400 and len(message) < 300, wrong[:20]
    assert post(b"[]")[0] == 400 and post(b"null")[0] == 400
    assert post(json.dumps(BODY | {"x" * 5000: 1}).encode())[1] == f"there is no field {'x' * 100!r}"


def test_a_full_queue_answers_429(loaded):
    openai = pytest.importorskip("openai")
    may_go_on = threading.Event()
    hook = loaded.janus.lm_head.register_forward_hook(lambda *_: may_go_on.wait(60) and None)
    try:
        with (
            Engine(loaded, max_waiting=1) as engine,
            served(engine) as address,
            openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0, timeout=60) as client,
        ):
            answers: list[Any] = []

            def ask() -> None:
                answers.append(client.chat.completions.create(**BODY))

            threads = [threading.Thread(target=ask) for _ in range(2)]
            threads[0].start()
            until(lambda: engine._running)
            threads[1].start()
            until(lambda: engine.num_waiting == 1)
            with pytest.raises(openai.RateLimitError, match="too many requests wait") as refused:
                client.chat.completions.create(**BODY, stream=True)
            assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
            may_go_on.set()
            for thread in threads:
                thread.join(60)
            assert len(answers) == 2
    finally:
        may_go_on.set()
        hook.remove()


def test_the_time_limit_is_told_whole_and_in_a_stream(loaded):
    openai = pytest.importorskip("openai")
    with (
        Engine(loaded, time_limit_s=0) as engine,
        served(engine) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=5, timeout=60) as client,
    ):
        since = time.monotonic()
        with pytest.raises(openai.APIStatusError, match="the time limit of a request") as stopped:
            client.chat.completions.create(**BODY | {"max_tokens": 900})
        assert stopped.value.status_code == 504 and time.monotonic() - since < 5, "nothing is tried again"
        with pytest.raises(openai.APIError, match="the time limit of a request"):
            list(client.chat.completions.create(**BODY | {"max_tokens": 900}, stream=True))
        with pytest.raises(openai.APIStatusError, match="the time limit of a request"):
            client.images.generate(prompt="a dog")


def test_a_defect_is_told_without_its_traceback(loaded, monkeypatch):
    def fail(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("janus_train.infer.engine.run_batch", fail)
    with Engine(loaded) as engine, served(engine) as address, httpx.Client(base_url=address, timeout=60) as http:
        answer = http.post("/v1/chat/completions", json=BODY)
        assert answer.status_code == 500 and error_of(answer)["message"].startswith("the model failed at this request")
        assert "secret" not in answer.text
        assert http.get("/health").status_code == 200
        monkeypatch.setattr("janus_train.serve.chat._prepare", fail)
        answer = http.post("/v1/chat/completions", json=BODY)
        assert answer.status_code == 500 and error_of(answer)["type"] == "server_error" and "secret" not in answer.text


def test_the_end_of_the_server_is_told_to_who_waits(loaded):
    may_go_on = threading.Event()
    hook = loaded.janus.lm_head.register_forward_hook(lambda *_: may_go_on.wait(60) and None)
    answers: list[Any] = []

    def ask(address: str) -> None:
        answers.append(httpx.post(f"{address}/v1/chat/completions", json=BODY, timeout=60))

    try:
        with Engine(loaded) as engine, served(engine) as address:
            threads = [threading.Thread(target=ask, args=(address,)) for _ in range(2)]
            threads[0].start()
            until(lambda: engine._running)
            threads[1].start()
            until(lambda: engine.num_waiting == 1)
            engine.refuse()
            threads[1].join(60)
            may_go_on.set()
            threads[0].join(60)
        assert [answer.status_code for answer in answers] == [503, 200], "what has begun is finished"
        assert error_of(answers[0])["code"] == "shutting_down"
    finally:
        may_go_on.set()
        hook.remove()


def test_what_takes_too_long_at_the_end_is_told(loaded, monkeypatch, caplog):
    monkeypatch.setattr("janus_train.serve.server.GRACE_S", 0.2)
    answers: list[Any] = []

    def slow_step(*_: Any) -> None:
        time.sleep(0.02)

    hook = loaded.janus.lm_head.register_forward_hook(slow_step)
    try:
        with Engine(loaded) as engine, served(engine) as address:
            body = BODY | {"max_tokens": 900}
            url = f"{address}/v1/chat/completions"
            thread = threading.Thread(target=lambda: answers.append(httpx.post(url, json=body, timeout=60)))
            thread.start()
            until(lambda: engine._running)
            since = time.monotonic()
        thread.join(60)
        assert time.monotonic() - since < 15, "900 steps take longer"
        assert answers[0].status_code == 503 and error_of(answers[0])["code"] == "shutting_down"
        assert not caplog.records
    finally:
        hook.remove()


def test_the_bodies_that_are_read_have_a_limit_together(loaded):
    """Eight of the longest are taken at a time, and a ninth is refused; those whose clients leave give way."""
    from janus_train.serve import bodies

    with Engine(loaded) as engine, served(engine) as address, httpx.Client(base_url=address, timeout=60) as http:
        place = urlsplit(address)
        slow = [socket.create_connection((place.hostname, place.port)) for _ in range(bodies.BODIES_AT_ONCE)]
        try:
            for connection in slow:
                connection.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 1048576\r\n\r\n{"
                )

            def is_full() -> bool:
                return http.post("/v1/chat/completions", json=BODY).status_code == 429

            until(is_full)
        finally:
            for connection in slow:
                connection.close()
        until(lambda: not is_full())


def test_a_body_that_does_not_come_is_given_up(loaded, monkeypatch):
    monkeypatch.setattr("janus_train.serve.bodies.READ_S", 0.2)
    with Engine(loaded) as engine, served(engine) as address:
        place = urlsplit(address)
        for path, form in (
            (b"chat/completions", b"application/json"),
            (b"images/edits", b"multipart/form-data; boundary=x"),
        ):
            with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
                connection.sendall(
                    b"POST /v1/" + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: " + form + b"\r\n"
                    b"Content-Length: 1000\r\n\r\n--x"
                )
                answer = b""
                while data := connection.recv(65536):
                    answer += data
                assert answer.startswith(b"HTTP/1.1 408") and b"the body was not complete after 0.2 s" in answer


def test_a_server_whose_engine_has_ended_is_not_healthy(loaded):
    with Engine(loaded) as engine:
        pass
    with served(engine) as address:
        answer = httpx.get(f"{address}/health")
        assert answer.status_code == 503 and answer.json()["status"] == "failed"


def test_the_documentations_example(address, loaded, tmp_path, monkeypatch, capsys):
    pytest.importorskip("openai")
    text = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    plain_image().save("image.png")
    exec(code.replace("http://localhost:8000", address).replace('"janus"', repr(NAME)), {})
    question = [{"role": "user", "content": "<image_placeholder>\nWhat colour is the background?"}]
    assert capsys.readouterr().out == "".join(loaded.chat(question, [plain_image()], 64))
    drawn = loaded.generate(["A red apple on a blue background."] * 2, seeds=[7, 8], guidance=5)
    for seed, image in zip((7, 8), drawn, strict=True):
        assert np.array_equal(np.asarray(Image.open(f"apple-{seed}.png")), np.asarray(image))
