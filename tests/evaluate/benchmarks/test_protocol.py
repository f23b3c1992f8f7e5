"""Protocols: the shipped ones, one of one's own, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_train.data.prompt_format import PromptStyle
from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.protocol import load_protocol
from janus_train.evaluate.benchmarks.registry import get_tasks
from janus_train.infer.sampling import GREEDY
from tests.evaluate.benchmarks.making import protocol_file, short_protocol


def test_the_shipped_protocols_are_greedy_and_name_their_source() -> None:
    deepseek, pro = load_protocol("deepseek"), load_protocol("pro")
    assert deepseek.decoding.sampling() == pro.decoding.sampling() == GREEDY
    assert (deepseek.decoding.max_new_tokens, pro.decoding.max_new_tokens) == (2048, 512)
    assert "VLMEvalKit" in deepseek.source and "README" in pro.source


def test_roles_and_system_prompts_are_those_of_the_protocol() -> None:
    deepseek, pro = load_protocol("deepseek"), load_protocol("pro")
    assert deepseek.style("pope") == PromptStyle("User", "Assistant", "")
    assert "step by step" in str(deepseek.style("mmvet").system)
    assert pro.style("mmvet") == PromptStyle("<|User|>", "<|Assistant|>", None)


def test_every_task_of_pro_is_marked_as_not_original_and_of_deepseek_gqa_alone() -> None:
    names = {task.name for task in get_tasks("pope,mme,mmbench,mmbench_circular,seed,mmmu,gqa,mmvet")}
    assert load_protocol("pro").not_original.keys() == names
    assert load_protocol("deepseek").not_original.keys() == {"gqa"}


def test_popes_own_request_is_removed_and_no_other_tasks() -> None:
    question = "Is there a dog? Please answer yes or no."
    protocol = load_protocol("deepseek")
    request = "Answer the question using a single word or phrase."
    assert protocol.prompt("pope", "yes_no", question) == f"\nIs there a dog?\n{request}"
    assert protocol.prompt("mme", "yes_no", question) == f"\n{question}\n{request}"


def test_the_digest_changes_with_any_value() -> None:
    protocol = short_protocol()
    assert protocol.digest() == short_protocol().digest()
    assert protocol.digest() != short_protocol(system="Look.").digest()


def test_a_protocol_of_ones_own_is_a_file(tmp_path: Path) -> None:
    assert load_protocol(str(protocol_file(tmp_path / "own.yaml", name="own"))).name == "own"
    (tmp_path / "bad.yml").write_text("name: [")
    with pytest.raises(UserError, match=r"bad\.yml is not valid YAML"):
        load_protocol(str(tmp_path / "bad.yml"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "after"}, "images: Input should be 'before' or 'in_place'"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"prompts": {"free": "{question}"}}, "prompts: give exactly yes_no, short_answer, choice, open, free"),
        (
            {"prompts": dict.fromkeys(("yes_no", "short_answer", "choice", "open", "free"), "{question}{hint}")},
            r"prompts: yes_no: \{question\} has to stand in it, and nothing but question",
        ),
        ({"decoding": {"max_new_tokens": 0}}, "decoding.max_new_tokens: Input should be greater than 0"),
    ],
)
def test_a_wrong_value_is_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_protocol(str(protocol_file(tmp_path / "own.yaml", **changes)))


def test_an_unknown_name_is_one_line() -> None:
    with pytest.raises(UserError, match="--protocol official: there is none, known are deepseek, pro, or give a YAML"):
        load_protocol("official")
