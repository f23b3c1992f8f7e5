"""The texts that the base's language model is pretrained on say what is true, of the training split alone."""

from __future__ import annotations

import re

import pytest

from janus_train.data.special_tokens import ASSISTANT, BOS, EOS, USER
from janus_train.demo.build.documents import document, held_out_question
from janus_train.demo.objects import PLACES, SCENE_OBJECTS, is_held_out
from janus_train.demo.words import questions

BODY = re.compile(f"{re.escape(BOS)}(.*){re.escape(EOS)}", re.DOTALL)
ENTRY = re.compile(rf"(?:({'|'.join(PLACES)}) )?({'|'.join(SCENE_OBJECTS)})(?: ({'|'.join(PLACES)}))?")


def body(view: str, index: int) -> str:
    match = BODY.fullmatch(document(view, index))
    assert match
    return match[1]


def entries(text: str) -> dict[str, str]:
    """Key words, "fox top, left owl" -> {"fox": "top", "owl": "left"}."""
    found = {}
    for entry in text.split(", "):
        match = ENTRY.fullmatch(entry)
        assert match, entry
        found[match[2]] = match[1] or match[3]
    return found


def test_a_repetition_says_the_same_words_twice() -> None:
    for index in range(50):
        words = body("repetition", index).split(" ")
        assert len(words) % 2 == 0 and words[: len(words) // 2] == words[len(words) // 2 :]


def test_a_list_says_the_same_three_times_in_any_order() -> None:
    orders = set()
    for index in range(50):
        said = body("list", index).split(", ")
        third = len(said) // 3
        assert len(entries(", ".join(said[:third]))) == third
        for start in (third, 2 * third):
            assert sorted(said[start : start + third]) == sorted(said[:third])
            orders.add(said[start : start + third] == said[:third])
    assert orders == {True, False}


def test_a_restatement_says_of_each_object_where_it_is_and_nothing_wrong() -> None:
    questions_seen = 0
    for index in range(200):
        key_words, _, said = body("restatement", index).partition(": ")
        places = entries(key_words)
        assert len(set(places.values())) == len(places) >= 2
        for name, place in places.items():
            sentences = [each for each in re.split(r"(?<=\w)\.?, ", said) if re.search(rf"\b{name}\b", each)]
            assert sentences
            for each in sentences:
                found = re.findall(rf"\b({'|'.join(sorted(PLACES, key=len, reverse=True))})\b", each)
                assert set(found) == {place}, each
                questions_seen += "?" in each
    assert questions_seen > 100


def test_every_document_depends_on_its_view_index_and_split_alone() -> None:
    for view in ("repetition", "list", "restatement", "notes", "reading", "naming", "description", "dialogue", "text"):
        assert document(view, 7) == document(view, 7)
        assert document(view, 7) != document(view, 8)
        assert document(view, 7) != document(view, 7, "held_out")


def test_a_held_out_question_is_about_a_held_out_scene_with_several_objects() -> None:
    for index in range(40):
        scene, question, answer = held_out_question("object", index)
        label = "+".join(sorted(each.object.name for each in scene.objects)) + "@" + scene.background
        assert is_held_out(label) and len(scene.objects) > 1
        assert ("object", question, answer) in questions(scene)


@pytest.mark.parametrize("view", ["notes", "reading", "dialogue"])
def test_questions_have_the_format_of_the_stages(view: str) -> None:
    text = document(view, 3)
    assert text.startswith(f"{BOS}<|User|>: ") and text.count(USER) == text.count(ASSISTANT) == text.count(EOS)
