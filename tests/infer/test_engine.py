"""One engine for many: what waits together is one batch, rows come out as they would alone, and end when they should."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_train.data.prompt_format import PromptStyle
from janus_train.errors import UserError
from janus_train.infer import engine as module
from janus_train.infer.engine import BusyError, ClosedError, Engine, choose_batch
from janus_train.infer.limits import TimeLimitError
from janus_train.infer.load import LoadedModel
from janus_train.infer.rows import (
    Answered,
    ChatRow,
    Failed,
    ImageRow,
    Piece,
    Request,
    chat_row,
    image_row,
)
from janus_train.infer.sampling import TextSampling

WAIT_S = 60


@pytest.fixture
def loaded(janus, encoder):
    return LoadedModel(Path("nowhere"), janus, encoder)


@pytest.fixture
def batches(monkeypatch):
    """The sizes of the batches that are worked on."""
    sizes: list[int] = []

    def counted(loaded, batch):
        sizes.append(len(batch))
        run(loaded, batch)

    run = module.run_batch
    monkeypatch.setattr(module, "run_batch", counted)
    return sizes


@pytest.fixture
def engine(loaded):
    with Engine(loaded) as running:
        yield running


class Outcome:
    """The events of a request."""

    def __init__(self, num_rows=1):
        self.events = [[] for _ in range(num_rows)]
        self.num_left = num_rows
        self.is_complete = threading.Event()
        self.has_begun = threading.Event()

    def put(self, number, event):
        self.events[number].append(event)
        self.has_begun.set()
        self.num_left -= not isinstance(event, Piece)
        if not self.num_left:
            self.is_complete.set()

    def wait(self):
        assert self.is_complete.wait(WAIT_S)
        return self

    def text(self, number=0):
        return "".join(event.text for event in self.events[number] if isinstance(event, Piece))

    @property
    def last(self):
        return self.events[0][-1]


class Held:
    """Keeps the engine busy with a row of its own until the block ends."""

    def __init__(self, engine):
        self.engine = engine
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def __enter__(self):
        self.engine.submit([question(self.engine.loaded, "Hold", 1)], self.put)
        assert self.begun.wait(WAIT_S)

    def put(self, number, event):
        self.begun.set()
        assert self.may_go_on.wait(WAIT_S)

    def __exit__(self, *_):
        self.may_go_on.set()


def user(text):
    return [{"role": "user", "content": text}]


def question(loaded, text="Hello", num_new=8, images=(), **options):
    return chat_row(loaded, user(text), images, num_new, **options)


def submit(engine, *rows):
    outcome = Outcome(len(rows))
    outcome.request = engine.submit(rows, outcome.put)
    return outcome


def image(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 12, 3), dtype=np.uint8))


def same(first, second):
    return np.array_equal(np.asarray(first), np.asarray(second))


def test_answers_of_one_batch_are_those_of_each_alone(engine, loaded, batches):
    look = "<image_placeholder>\nWhat?"
    warm, cold = TextSampling(temperature=1.0), TextSampling(temperature=0.7, top_p=0.9, repetition_penalty=1.2)
    wanted = [
        ("Hello", [], 12, {}),
        ("Who is there, and what is it?", [], 5, {"sampling": warm, "seed": 3}),
        (look, [image(0)], 20, {"sampling": cold, "seed": 4}),
        ("Hello", [], 9, {"sampling": warm, "seed": 5, "style": PromptStyle(system="Be brief.")}),
        (look, [image(1)], 3, {}),
    ]
    with Held(engine):
        outcomes = [
            submit(engine, question(loaded, text, num_new, images, **more)) for text, images, num_new, more in wanted
        ]
    answers = [outcome.wait().text() for outcome in outcomes]
    expected = ["".join(loaded.chat(user(text), images, num, **more)) for text, images, num, more in wanted]
    assert answers == expected and len(set(answers)) == 5
    assert batches == [1, 5]
    for outcome, (_, _, num_new, _) in zip(outcomes, wanted, strict=True):
        assert outcome.last == Answered("length", num_new)


def test_a_stop_sequence_ends_one_answer_and_not_the_others(engine, loaded):
    whole = "".join(loaded.chat(user("Hello"), (), 30))
    stop = whole[len(whole) // 2 :][:2]
    with Held(engine):
        stopped = submit(engine, question(loaded, "Hello", 30, stop=[stop]))
        other = submit(engine, question(loaded, "Hello", 30))
    assert stopped.wait().text() == whole[: whole.index(stop)].rstrip()
    assert stopped.last.reason == "stop" and stopped.last.num_tokens < 30
    assert other.wait().text() == whole and other.last == Answered("length", 30)


def test_drawings_of_one_batch_are_those_of_each_alone(engine, loaded, batches):
    prompts, seeds = ["a dog", "two dogs and a cat", "a cat"], [3, 4, 5]
    look = [image(0)]
    with Held(engine):
        plain = submit(
            engine, *(image_row(loaded, prompt, seed=seed) for prompt, seed in zip(prompts, seeds, strict=True))
        )
        warmer = submit(engine, image_row(loaded, "a dog", seed=3, guidance=2.0, temperature=0.8, top_p=0.9, top_k=20))
        edited = submit(engine, image_row(loaded, "in red", seed=6, images=look))
        likeliest = submit(engine, image_row(loaded, "a dog", seed=3, temperature=0))
    expected = loaded.generate(prompts, seeds=seeds)
    plain.wait()
    assert all(same(events[-1].image, wanted) for events, wanted in zip(plain.events, expected, strict=True))
    [wanted] = loaded.generate(["a dog"], seeds=[3], guidance=2.0, temperature=0.8, top_p=0.9, top_k=20)
    assert same(warmer.wait().last.image, wanted) and not same(wanted, expected[0])
    assert same(edited.wait().last.image, loaded.generate(["in red"], seeds=[6], images=look)[0])
    assert same(likeliest.wait().last.image, loaded.generate(["a dog"], seeds=[9], temperature=0)[0])
    assert batches == [1, 4, 1, 1], "the edited image joins those of the same guidance"


def test_answers_come_piece_by_piece(engine, loaded):
    outcome = submit(engine, question(loaded, "Hello", 30)).wait()
    assert sum(isinstance(event, Piece) for event in outcome.events[0]) > 5


def test_a_batch_that_nobody_waits_for_ends(engine, loaded, janus):
    steps = []
    janus.lm_head.register_forward_hook(lambda *_: steps.append(1))
    with Held(engine):
        outcomes = [submit(engine, question(loaded, "Hello", 900)) for _ in range(3)]
        unseen = submit(engine, question(loaded, "Hello", 900))
        unseen.request.cancel()
    for outcome in outcomes:
        assert outcome.has_begun.wait(WAIT_S)
        outcome.request.cancel()
    submit(engine, question(loaded)).wait()
    assert len(steps) < 600 and not unseen.events[0]
    assert not any(isinstance(event, Answered | Failed) for outcome in outcomes for event in outcome.events[0])


def test_a_drawing_that_nobody_waits_for_ends(engine, loaded, janus, caplog):
    steps = []

    def cancel(*_):
        steps.append(1)
        drawn.request.cancel()

    with Held(engine):
        drawn = submit(engine, image_row(loaded, "a dog", seed=0))
        janus.model.generation_head.register_forward_hook(cancel)
    submit(engine, question(loaded)).wait()
    assert len(steps) == 1 and not drawn.events[0] and not caplog.records


def test_time_ends_an_answer_and_a_drawing(loaded):
    with Engine(loaded, time_limit_s=0) as engine:
        for row in (question(loaded, "Hello", 900), image_row(loaded, "a dog", seed=0)):
            outcome = submit(engine, row).wait()
            assert isinstance(outcome.last.error, TimeLimitError)
        with pytest.raises(UserError, match="stopped after 0 s, the time limit of a request"):
            list(engine.chat(user("Hello"), [], 900))


def test_time_in_the_queue_does_not_count(loaded):
    with Engine(loaded, time_limit_s=2) as engine:
        with Held(engine):
            outcome = submit(engine, question(loaded))
            time.sleep(2.2)
        assert outcome.wait().last == Answered("length", 8)


def test_a_full_queue_refuses_and_a_cancelled_row_makes_room(loaded):
    with Engine(loaded, max_waiting=2) as engine:
        with Held(engine):
            first = submit(engine, question(loaded))
            with pytest.raises(BusyError, match="too many requests wait") as refused:
                submit(engine, question(loaded), question(loaded))
            second = submit(engine, question(loaded))
            assert 1 <= refused.value.retry_after_s <= 60 and engine.num_waiting == 2
            second.request.cancel()
            third = submit(engine, question(loaded))
        assert first.wait().text() == third.wait().text() and not second.events[0]


def test_the_end_fails_what_waits_and_what_runs(loaded):
    with Engine(loaded) as engine:
        running = submit(engine, question(loaded, "Hello", 900))
        assert running.has_begun.wait(WAIT_S) and engine.is_alive
        waiting = submit(engine, question(loaded))
        engine.refuse()
        assert isinstance(waiting.wait().last.error, ClosedError) and not engine.is_alive
        with pytest.raises(ClosedError):
            submit(engine, question(loaded))
    assert isinstance(running.wait().last.error, ClosedError)


def test_one_row_that_fails_does_not_fail_the_others(engine, loaded, monkeypatch, caplog):
    def failing(loaded, batch):
        if any(queued.row.num_new == 13 for queued in batch):
            raise RuntimeError("a defect")
        run(loaded, batch)

    run = module.run_batch
    monkeypatch.setattr(module, "run_batch", failing)
    with Held(engine), caplog.at_level(logging.WARNING):
        good = [submit(engine, question(loaded, "Hello", 8)) for _ in range(2)]
        bad = submit(engine, question(loaded, "Hello", 13))
    assert isinstance(bad.wait().last.error, RuntimeError)
    assert {outcome.wait().text() for outcome in good} == {"".join(loaded.chat(user("Hello"), (), 8))}
    assert "a defect" in caplog.text and "a batch of 3 failed (RuntimeError)" in caplog.text


def test_who_is_gone_without_a_word_does_not_fail_the_others(engine, loaded):
    def gone(number, event):
        raise RuntimeError("Event loop is closed")

    with Held(engine):
        engine.submit([question(loaded)], gone)
        outcome = submit(engine, question(loaded))
    assert outcome.wait().last == Answered("length", 8)


def test_callers_that_wait_get_what_the_model_gives(engine, loaded):
    assert "".join(engine.chat(user("Hello"), [], 12)) == "".join(loaded.chat(user("Hello"), (), 12))
    drawn = engine.generate(["a dog"] * 2, seeds=[1, 2], guidance=5.0, temperature=1.0)
    expected = loaded.generate(["a dog"] * 2, seeds=[1, 2], guidance=5.0, temperature=1.0)
    assert all(map(same, drawn, expected))
    with pytest.raises(UserError, match="1 <image_placeholder> but 0 images"):
        list(engine.chat(user("<image_placeholder>"), [], 12))
    with pytest.raises(UserError, match="do not fit the context of 1024"):
        list(engine.chat(user("Hello"), [], 1024))


def test_an_answer_without_a_length_is_as_long_as_fits(loaded):
    assert chat_row(loaded, user("Hello"), [], None).num_new == 256
    long = chat_row(loaded, user("word " * 170), [], None)
    assert long.num_tokens == 1024 and long.num_new < 256


def rows(*rows):
    return Request(rows, lambda *_: None, 1).queued


def test_a_batch_takes_what_fits_in_the_order_of_waiting():
    answer = ChatRow([1] * 100, (), 100, TextSampling(), 0, ())
    long_answer = ChatRow([1] * 7000, (), 1000, TextSampling(), 0, ())
    drawing = ImageRow([1] * 10, (), 16, 5.0, 1.0, 0, 1.0, 0)
    other = ImageRow([1] * 10, (), 16, 1.0, 1.0, 0, 1.0, 0)
    waiting = rows(drawing, answer, other, drawing, long_answer, drawing)
    assert choose_batch(waiting, 16) == [waiting[0], waiting[3], waiting[5]]
    assert choose_batch(waiting, 2) == [waiting[0], waiting[3]]
    assert choose_batch(waiting[1:], 16) == [waiting[1], waiting[4]]
    assert choose_batch(waiting[1:], 2) == [waiting[1]], "8000 tokens are too many for two rows"
    assert choose_batch(waiting[4:], 1) == [waiting[4]], "alone it is taken at any length"
    waiting[1].is_over = True
    assert choose_batch(waiting[1:], 16) == [waiting[2]]
    assert (drawing.num_tokens, other.num_tokens) == (52, 26), "guidance reads a prompt twice"
