"""Many clients at once, good and bad: what each sends, and what has to come back."""

from __future__ import annotations

import asyncio
import base64
import io
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
from PIL import Image

from janus_train.infer.load import LoadedModel
from janus_train.infer.sampling import TextSampling
from tests.helpers import encoded, plain_image
from tests.serve.serving import user

Step = Callable[[httpx.AsyncClient], Awaitable[None]]
CHAT, DRAW = "/v1/chat/completions", "/v1/images/generations"
WARM = TextSampling(temperature=1.0, top_p=0.9)


class Load:
    """Steps of clients of a server of ``model``. Each checks its answer against the model's own, or its refusal."""

    def __init__(self, loaded: LoadedModel, model: str):
        self.model = model
        self.counts: Counter[str] = Counter()
        self.image = plain_image((0, 90, 200))
        asked = [
            *((text, 5 + 3 * number, None) for number, text in enumerate(("Hello", "Who is there", "What is red"))),
            *(("Tell me more about it", 12, seed) for seed in (1, 2, 3)),
        ]
        self.answers = {
            (text, num, seed): "".join(
                loaded.chat(user(text), (), num, **({} if seed is None else {"sampling": WARM, "seed": seed}))
            )
            for text, num, seed in asked
        }
        look = [{"role": "user", "content": "<image_placeholder>\nWhat is it?"}]
        self.seen = "".join(loaded.chat(look, [self.image], 6))
        self.drawn = {seed: np.asarray(loaded.generate(["a dog"], seeds=[seed])[0]) for seed in (1, 2)}

    async def run(self, address: str, clients: int, seconds: float) -> None:
        """``clients`` at once for that long; a step that fails, or takes a minute, fails it all."""
        end = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as http, asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self._client(http, random.Random(number), end))

    async def _client(self, http: httpx.AsyncClient, rng: random.Random, end: float) -> None:
        steps: list[Step] = [self.chat, self.chat, self.stream, self.look, self.draw, self.refused, self.leave]
        while time.monotonic() < end:
            step = rng.choice(steps)
            await step(http)
            self.counts[step.__name__] += 1

    async def post(self, http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of a good request, which is sent again while the queue is full."""
        while True:
            answer = await http.post(path, json={"model": self.model} | body)
            if answer.status_code != 429:
                assert answer.status_code == 200, answer.text
                return answer.json()
            self.counts["429"] += 1
            await asyncio.sleep(0.2)

    def question(self) -> tuple[dict[str, Any], str]:
        """A body, and the answer to it."""
        (text, num, seed), expected = random.choice(list(self.answers.items()))
        sampled = {} if seed is None else {"temperature": 1.0, "top_p": 0.9, "seed": seed}
        return {"messages": user(text), "max_tokens": num, **sampled}, expected

    async def chat(self, http: httpx.AsyncClient) -> None:
        body, expected = self.question()
        answer = await self.post(http, CHAT, body)
        assert answer["choices"][0]["message"]["content"] == expected

    async def stream(self, http: httpx.AsyncClient) -> None:
        body, expected = self.question()
        body |= {"model": self.model, "stream": True}
        async with http.stream("POST", CHAT, json=body) as answer:
            if answer.status_code == 429:
                return
            text = (await answer.aread()).decode()
        chunks = [line.removeprefix("data: ") for line in text.split("\n") if line]
        assert chunks.pop() == "[DONE]"
        deltas = [httpx.Response(200, text=chunk).json()["choices"][0]["delta"] for chunk in chunks]
        assert "".join(delta.get("content", "") for delta in deltas) == expected

    async def look(self, http: httpx.AsyncClient) -> None:
        url = "data:image/png;base64," + base64.b64encode(encoded(self.image)).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
        answer = await self.post(http, CHAT, {"messages": [{"role": "user", "content": content}], "max_tokens": 6})
        assert answer["choices"][0]["message"]["content"] == self.seen

    async def draw(self, http: httpx.AsyncClient) -> None:
        seed, expected = random.choice(list(self.drawn.items()))
        answer = await self.post(http, DRAW, {"prompt": "a dog", "seed": seed})
        with Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))) as image:
            assert np.array_equal(np.asarray(image), expected)

    async def leave(self, http: httpx.AsyncClient) -> None:
        """A client that hangs up, in the middle of a stream or before its answer."""
        body = {"model": self.model, "messages": user("Hello"), "max_tokens": 900}
        if random.random() < 0.5:
            async with http.stream("POST", CHAT, json=body | {"stream": True}) as answer:
                await anext(answer.aiter_lines())
        else:
            try:
                await http.post(CHAT, json=body, timeout=0.3)
            except httpx.TimeoutException:
                return

    async def refused(self, http: httpx.AsyncClient) -> None:
        broken = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
        remote = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
        status, path, sent = random.choice(
            [
                (400, CHAT, {"content": b"{" * 1000}),
                (400, CHAT, {"json": {"model": self.model, "messages": []}}),
                (400, CHAT, {"json": {"model": self.model, "messages": [{"role": "user", "content": broken}]}}),
                (400, CHAT, {"json": {"model": self.model, "messages": [{"role": "user", "content": remote}]}}),
                (400, CHAT, {"json": {"model": self.model, "messages": user("word " * 5000)}}),
                (400, CHAT, {"json": {"model": self.model, "messages": user("x"), "tools": [1]}}),
                (404, CHAT, {"json": {"model": "other", "messages": user("x")}}),
                (404, "/v1/other", {"json": {}}),
                (400, DRAW, {"json": {"prompt": "a dog", "n": 1000}}),
                (413, DRAW, {"content": bytes(1_500_000)}),
                (415, DRAW, {"data": {"prompt": "a dog"}}),
            ]
        )
        headers = {} if "data" in sent else {"content-type": "application/json"}
        answer = await http.post(path, headers=headers, **sent)
        assert answer.status_code == status and answer.json()["error"]["message"], (status, answer.text)
