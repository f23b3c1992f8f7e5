"""``janus-train serve`` as a process: how it begins, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from janus_train.errors import UserError
from janus_train.infer.address import bind
from janus_train.serve.server import KEY_VARIABLE, key_of_environment
from tests.serve.serving import user

httpx = pytest.importorskip("httpx", reason="httpx is not installed")


@contextmanager
def command(model: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, which has said its line, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        sys.executable,
        "-m",
        "janus_train.cli",
        "serve",
        str(model),
        "--port",
        str(port),
        "--name",
        "tiny",
        *options,
    ]
    inherited = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    with subprocess.Popen(
        words, env=inherited | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("tiny at http://") and line.endswith("/v1 (Ctrl-C ends it)\n"), line
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def ask(address: str, max_tokens: int = 2, **options: Any) -> Any:
    body = {"model": "tiny", "messages": user("Hello"), "max_tokens": max_tokens}
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60, **options)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code, and what was said on standard error."""
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def end_while_it_answers(process: subprocess.Popen[str], address: str, sent: signal.Signals, **options: Any) -> None:
    """What has begun is finished."""
    body = {"model": "tiny", "messages": user("Hello"), "max_tokens": 300, "stream": True}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60, **options) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: {")
        process.send_signal(sent)
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_sigterm_ends_it_cleanly_and_a_server_for_all_without_a_key_warns(random_base):
    with command(random_base, "--host", "0.0.0.0") as (process, address):
        assert ask(address).status_code == 200
        end_while_it_answers(process, address, signal.SIGTERM)
        code, said = ended(process)
        assert code == 128 + signal.SIGTERM and said == (
            "warning: whoever reaches 0.0.0.0 can use the model: set JANUS_TRAIN_API_KEY, or leave out --host\n"
        )


def test_ctrl_c_ends_it_cleanly_and_a_key_is_asked_for_and_said_nowhere(random_base):
    with command(random_base, "--host", "0.0.0.0", JANUS_TRAIN_API_KEY="s3cret") as (process, address):
        assert ask(address).status_code == 401
        key = {"authorization": "Bearer s3cret"}
        assert ask(address, headers=key).status_code == 200
        end_while_it_answers(process, address, signal.SIGINT, headers=key)
        assert ended(process) == (130, "")


def test_a_taken_port_is_told_before_the_model_is_loaded(run, tmp_path):
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        code, out, said = run("serve", tmp_path, "--port", port)
    assert (code, out) == (2, "")
    assert (
        said
        == f"error: http://127.0.0.1:{port} cannot be served (Address already in use): give another --port or --host\n"
    )


@pytest.mark.parametrize("key", ["", "a b", "ä", "a\n"])
def test_a_key_that_cannot_be_sent_is_told(key, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(UserError, match=r"^JANUS_TRAIN_API_KEY .*: set it to letters, digits and signs, or unset it"):
        key_of_environment()


def test_no_key_and_a_good_one(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert key_of_environment() is None
    monkeypatch.setenv(KEY_VARIABLE, "sk-1_2.3")
    assert key_of_environment() == "sk-1_2.3"
