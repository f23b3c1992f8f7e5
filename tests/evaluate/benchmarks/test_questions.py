"""Questions with images: their order, what the model reads, and those that do not fit its context."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks import questions
from janus_train.evaluate.benchmarks.questions import Question, content
from janus_train.evaluate.benchmarks.registry import Context, get_tasks
from janus_train.evaluate.benchmarks.tables import read_rows
from janus_train.infer import chat
from janus_train.infer.load import load_model
from tests.evaluate.benchmarks.making import base64_png, pope_rows, short_protocol, write_tsv

IMAGE = "<image_placeholder>"


@pytest.fixture
def three(tmp_path: Path) -> Question:
    """A question about three images that names the third, then the first."""
    images = str([base64_png(n) for n in range(3)])
    [row] = read_rows([write_tsv(tmp_path / "t.tsv", [{"index": 0, "question": "q", "image": images}])])
    return Question("0", "\nIs <image 3> like <image 1>?", row.images, {}, row.where)


def test_images_stand_before_the_text(three: Question) -> None:
    text, images = content(three, short_protocol())
    assert text == f"{IMAGE}{IMAGE}{IMAGE}\nIs <image 3> like <image 1>?"
    assert images == three.images


def test_images_stand_in_their_places_and_those_without_one_first(three: Question) -> None:
    text, images = content(three, short_protocol("pro"))
    assert text == f"{IMAGE}\nIs {IMAGE} like {IMAGE}?"
    assert images == (three.images[1], three.images[2], three.images[0])


def test_a_place_without_an_image_is_one_line(three: Question) -> None:
    with pytest.raises(UserError, match="row 2: <image 4> is not there, it has 3 images"):
        content(replace(three, text="<image 4>"), short_protocol("pro"))


def open_pope(tmp_path: Path, n: int, **changes):
    write_tsv(tmp_path / "POPE.tsv", pope_rows(n))
    [pope] = get_tasks("pope")
    return pope.open(tmp_path, short_protocol(**changes))


def test_the_model_reads_the_protocols_prompt_to_the_letter(
    random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(random_base)
    task = open_pope(tmp_path, 1)
    prompts = []
    answer_ids = chat.answer_ids
    monkeypatch.setattr(chat, "answer_ids", lambda *words: (prompts.append(words[2][0]), answer_ids(*words))[1])
    task.answer(Context(model, tmp_path, 0, 4), [0])
    special = model.encoder.special
    words = [token for token in prompts[0] if token not in (special.bos, special.placeholder)]
    assert model.encoder.tokenizer.decode(words) == (
        "User: <begin_of_image><end_of_image>\nIs there a dog number 0 in the image?\n"
        "Answer the question using a single word or phrase.\n\nAssistant:"
    )
    assert prompts[0].count(special.placeholder) == model.encoder.tokens_per_image


def test_a_question_beyond_the_context_is_counted_and_wrong(random_base: Path, tmp_path: Path) -> None:
    model = load_model(random_base)
    write_tsv(
        tmp_path / "POPE.tsv",
        [row | {"question": row["question"] * (90 if row["index"] == 1 else 1)} for row in pope_rows(3)],
    )
    [pope] = get_tasks("pope")
    task = pope.open(tmp_path, short_protocol())
    lines = task.answer(Context(model, tmp_path, 0, 4), [0, 1, 2])
    assert [line.get("too_long", False) for line in lines] == [False, True, False]
    assert lines[1]["answer"] == ""
    result = task.score(lines, tmp_path)
    assert "POPE: questions that do not fit the model's context and count as wrong: 1." in result.note


def test_an_answer_is_as_long_as_the_context_has_room(
    random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(random_base)
    decoding = {**short_protocol().decoding.model_dump(), "max_new_tokens": 5000}
    task = open_pope(tmp_path, 2, decoding=decoding)
    room: list[int] = []
    monkeypatch.setattr(questions, "answer", lambda *words, **_: (room.append(words[3]), ["yes"] * len(words[2]))[1])
    task.answer(Context(model, tmp_path, 0, 2), [0, 1])
    prompt = model.encoder.chat_prompt_ids(
        [{"role": "user", "content": task._contents[0][0]}, {"role": "assistant", "content": ""}], 1, task.style
    )
    assert room == [1024 - len(prompt)]


def test_another_prompt_has_another_digest(tmp_path: Path) -> None:
    digest = open_pope(tmp_path, 2).prompts_digest
    assert open_pope(tmp_path, 2).prompts_digest == digest
    assert open_pope(tmp_path, 2, system="Look.").prompts_digest != digest
    assert open_pope(tmp_path, 3).prompts_digest != digest


def test_two_questions_of_one_name_are_one_line(tmp_path: Path) -> None:
    write_tsv(tmp_path / "POPE.tsv", [{**row, "index": 0, "image": base64_png(0)} for row in pope_rows(2)])
    [pope] = get_tasks("pope")
    with pytest.raises(UserError, match=r"row 3: '0' is also that of .*row 2"):
        pope.open(tmp_path, short_protocol())


def test_a_table_without_questions_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "POPE.tsv").write_text("index\tquestion\timage\n")
    [pope] = get_tasks("pope")
    with pytest.raises(UserError, match=r"there is no question of pope in POPE\.tsv"):
        pope.open(tmp_path, short_protocol())
