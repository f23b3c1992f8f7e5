from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from janus_train.data.prompt_format import chat_prompt, chat_template, generation_prompt, role_of, split_system
from janus_train.data.special_tokens import ASSISTANT, EOS, PLACEHOLDER, USER
from janus_train.data.templates import get_template
from janus_train.data.types import Record
from janus_train.errors import UserError
from janus_train.interop.processor import SYSTEM_PROMPT
from tests.helpers import plain_image

PROMPTS = json.loads((Path(__file__).parents[1] / "golden/official_prompts.json").read_text(encoding="utf-8"))
ENVIRONMENTS = {
    "plain": jinja2.Environment(),
    "as transformers has it": ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True),
}


@pytest.mark.parametrize("case", PROMPTS, ids=lambda case: case["name"])
def test_prompts_are_the_official_ones_to_the_letter(case: dict[str, Any]) -> None:
    assert chat_prompt(case["messages"], case["system"]) == case["prompt"]


@pytest.mark.parametrize("case", PROMPTS, ids=lambda case: case["name"])
def test_other_roles_change_the_words_at_the_beginning_of_turns_alone(case: dict[str, Any]) -> None:
    words = case["prompt"].replace(USER, "User").replace(ASSISTANT, "Assistant")
    assert chat_prompt(case["messages"], case["system"], "User", "Assistant") == words


def test_a_generation_prompt_is_a_request_and_an_open_answer() -> None:
    [case] = [case for case in PROMPTS if case["name"] == "generation_prompt"]
    assert generation_prompt(case["messages"][0]["content"]) == case["prompt"]


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_generation_prompt_leaves_the_request_open(prompt: str) -> None:
    """As the official template has it: without a space, and without a blank line."""
    assert generation_prompt(prompt) == "<|User|>:<|Assistant|>:"


ODD_ROLES = {
    "two user turns": (
        [("user", "Hi"), ("user", "there"), ("assistant", "Yes."), ("user", "So?")],
        f"{USER}: Hi\n\n{USER}: there{EOS}{ASSISTANT}: Yes.\n\n{USER}: So?{EOS}",
    ),
    "the assistant begins": (
        [("assistant", "Hi."), ("user", "Hello")],
        f"{ASSISTANT}: Hi.\n\n{USER}: Hello{EOS}",
    ),
    "an empty turn counts": (
        [("user", ""), ("user", "Hi"), ("assistant", "")],
        f"{USER}:{USER}: Hi{EOS}{ASSISTANT}:",
    ),
}


@pytest.mark.parametrize("name", ODD_ROLES)
def test_what_follows_the_words_is_the_turns_number_not_its_role(name: str) -> None:
    """Expected: what the official apply_sft_template_for_multi_turn_prompts gives."""
    turns, expected = ODD_ROLES[name]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert chat_prompt(messages, "") == expected
    template = ENVIRONMENTS["plain"].from_string(chat_template(SYSTEM_PROMPT))
    assert template.render(messages=messages) == expected
    own_system = [{"role": "system", "content": " Be kind.\n"}, *messages]
    assert template.render(messages=own_system) == f"Be kind.\n\n{expected}", "the system message is no turn"


def test_a_system_message_is_taken_from_the_start_alone() -> None:
    system, user = {"role": "system", "content": " Be kind. "}, {"role": "user", "content": "Hi"}
    assert split_system([system, user]) == ("Be kind.", [user])
    assert split_system([user]) == (None, [user])
    assert role_of(user) == USER and role_of({"role": ASSISTANT, "content": ""}) == ASSISTANT
    for messages, message in (
        ([], "has no turn"),
        ([system], "has no turn"),
        ([user, system], "the role 'system': a system message stands at the start only"),
        ([{"role": "tool", "content": "x"}], "the role 'tool': known are user, assistant and system"),
        ([{"content": "x"}], "the role None: known are"),
        ([{"role": ["user"], "content": "x"}], "known are user"),
        ([user, {"role": "user", "content": [{"type": "text"}]}], "message 1 of a conversation has no text"),
    ):
        with pytest.raises(UserError, match=message) as error:
            split_system(messages)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_chat_template_is_the_official_one_to_the_letter(environment: str) -> None:
    template = ENVIRONMENTS[environment].from_string(chat_template(SYSTEM_PROMPT))
    template_1_3b = ENVIRONMENTS[environment].from_string(
        chat_template(SYSTEM_PROMPT, "User", "Assistant")
    )  # Janus-1.3B
    num_compared = 0
    for case in PROMPTS:
        has_image = any(PLACEHOLDER in message["content"] for message in case["messages"])
        if bool(case["system"]) != has_image:
            continue  # the official code lets its caller choose; the template has it with images
        assert template.render(messages=case["messages"]) == case["prompt"], case["name"]
        words = case["prompt"].replace(USER, "User").replace(ASSISTANT, "Assistant")
        assert template_1_3b.render(messages=case["messages"]) == words, case["name"]
        untidy = [{**message, "content": f"\n {message['content']} \n"} for message in case["messages"]]
        assert template.render(messages=untidy) == case["prompt"], "contents come without white space around"
        num_compared += 1
    assert num_compared >= 2


contents = st.lists(
    st.one_of(st.sampled_from([PLACEHOLDER, "\n", "{{ 1 }}", "'", '"', "\\n"]), st.text(max_size=8)), max_size=4
).map("".join)
systems = st.one_of(st.just(""), st.just(SYSTEM_PROMPT), st.text(max_size=20).filter(str.strip))


@settings(deadline=None, max_examples=100)
@given(
    turns=st.lists(st.tuples(st.integers(0, 1), contents), min_size=1, max_size=5),
    system=systems,
    names=st.sampled_from(["us", "US", "tokens"]),
)
def test_the_chat_template_and_the_format_give_the_same_prompt(
    turns: list[tuple[int, str]], system: str, names: str
) -> None:
    roles = {"us": ("user", "assistant"), "US": ("User", "Assistant"), "tokens": (USER, ASSISTANT)}[names]
    messages = [{"role": roles[speaker], "content": content} for speaker, content in turns]
    has_image = any(PLACEHOLDER in content for _, content in turns)
    expected = chat_prompt(messages, system if has_image else "")
    for environment in ENVIRONMENTS.values():
        template = environment.from_string(chat_template(system))
        assert template.render(messages=messages) == expected
        assert template.render(messages=messages, add_generation_prompt=True) == expected + f"{ASSISTANT}:"


def test_lists_of_texts_and_images_are_strings_with_placeholders() -> None:
    template = ENVIRONMENTS["plain"].from_string(chat_template("Look well."))
    items = [{"type": "image"}, {"type": "text", "text": "or"}, {"type": "image"}, {"type": "image"}]
    prompt_of_items = template.render(messages=[{"role": "user", "content": items}])
    words = "\n".join([PLACEHOLDER, "or", PLACEHOLDER, PLACEHOLDER])
    assert prompt_of_items == chat_prompt([{"role": "user", "content": words}], "Look well.")
    own_system = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": words}]
    assert template.render(messages=own_system) == chat_prompt(own_system[1:], "Be kind.")


words = st.text(st.characters(blacklist_characters="<｜|"), min_size=1, max_size=8).filter(str.strip)
question_texts = st.lists(st.one_of(st.just(PLACEHOLDER), words), min_size=1, max_size=4).map("".join)
answers = st.one_of(st.just(PLACEHOLDER), words, words.map(lambda text: text + PLACEHOLDER))


@settings(deadline=None, max_examples=100)
@given(turns=st.lists(st.tuples(question_texts, answers), min_size=1, max_size=3))
def test_training_reads_the_format_that_inference_writes(turns: list[tuple[str, str]]) -> None:
    messages = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip((USER, ASSISTANT), turn, strict=True)
    ]
    images = sum(message["content"].count(PLACEHOLDER) for message in messages)
    segments = get_template("conversation").build(Record("k", {"conversations": messages}, [plain_image()] * images))
    training_text = "".join(segment.text if segment.role == "text" else PLACEHOLDER for segment in segments)
    # an answer that begins with an image has no space before it: as in the official generation prompt
    assert training_text == chat_prompt(messages, "").replace(
        f"{ASSISTANT}: {PLACEHOLDER}", f"{ASSISTANT}:{PLACEHOLDER}"
    )
    trained_texts = [segment.text for segment in segments if segment.loss]
    assert trained_texts == [
        f" {answer.strip().removesuffix(PLACEHOLDER)}" + ("" if answer.endswith(PLACEHOLDER) else EOS)
        for _, answer in turns
        if answer != PLACEHOLDER
    ]
