"""One server for a module's tests, over the tiny random model, and OpenAI's client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from janus_train.infer.engine import Engine
from janus_train.infer.load import LoadedModel
from tests.helpers import in_letters
from tests.serve.serving import served


@pytest.fixture(scope="session")
def loaded(random_base: Path) -> LoadedModel:
    """A random model that answers in letters."""
    return in_letters(random_base, scale=20)  # so that sampled answers are not noise


@pytest.fixture(scope="module")
def engine(loaded: LoadedModel) -> Iterator[Engine]:
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    with Engine(loaded) as running:
        yield running


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    with served(engine) as running:
        yield running


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Any]:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def http(address: str) -> Iterator[Any]:
    httpx = pytest.importorskip("httpx", reason="httpx is not installed")
    with httpx.Client(base_url=address, timeout=60) as opened:
        yield opened
