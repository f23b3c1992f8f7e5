"""Without data the demonstration is evaluated, with data that data; what the chosen evaluation does not use is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_train.demo.options import DemoOptions
from janus_train.errors import UserError
from janus_train.evaluate.choice import choose, parse_options
from janus_train.evaluate.options import EvaluationOptions
from janus_train.evaluate.own_data.options import OwnDataOptions
from janus_train.evaluate.registry import register_evaluation
from tests.helpers import Run


def test_the_data_decides_which_evaluation_runs() -> None:
    chosen, options = choose(None, {"num_prompts": 3})
    assert chosen.name == "demo" and not chosen.has_page and not chosen.takes_data
    assert options == DemoOptions(num_prompts=3, num_questions=400, seed=0, guidance=None, batch_size=64)
    chosen, options = choose(None, {"data": "a.jsonl", "by": "type", "guidance": 2})
    assert chosen.name == "own_data" and chosen.has_page and chosen.takes_data
    assert options == OwnDataOptions(data="a.jsonl", by="type", guidance=2.0)
    assert choose("demo", {})[0].name == "demo"


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("demo", {"data": "a.jsonl"}, "evaluation demo does not use DATA: it is an option of own_data; leave it out"),
        (None, {"by": "type"}, "evaluation demo does not use --by: it is an option of own_data; leave it out"),
        (None, {"num_samples": 3}, "evaluation demo does not use --num-samples: it is an option of own_data"),
        (None, {"colour": 3}, "evaluation demo does not use --colour: leave it out"),
        ("own_data", {}, "evaluation own_data needs DATA"),
        (None, {"num_questions": 3}, "--num-questions: Input should be greater than or equal to 4, got 3"),
        (None, {"seed": "x"}, "--seed: Input should be a valid integer, got 'x'"),
        ("nothing", {}, "--evaluation: there is no evaluation 'nothing', known are demo, own_data"),
    ],
)
def test_what_cannot_be_used_is_one_line(name: str | None, given: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as error:
        choose(name, given)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.usefixtures("registries")
def test_an_evaluation_of_a_plug_in_has_options_of_its_own() -> None:
    class Sizes(EvaluationOptions):
        smallest: int
        sides: tuple[str, ...] = ()

    class Measuring:
        def run(self, *arguments: object) -> dict[str, object]:
            return {}

        def table(self, results: dict[str, object]) -> object:
            return None

    register_evaluation("sizes", Measuring(), Sizes)  # type: ignore[arg-type]
    chosen, options = choose("sizes", parse_options(["smallest=4"]))
    assert chosen.name == "sizes" and options == Sizes(smallest=4)
    with pytest.raises(UserError, match=r"^evaluation sizes needs --smallest$"):
        choose("sizes", {})
    with pytest.raises(UserError, match=r"^evaluation sizes does not use --seed: it is an option of demo and own_data"):
        choose("sizes", {"smallest": 1, "seed": 1})
    register_evaluation("plain", Measuring())  # type: ignore[arg-type]
    assert choose("plain", {})[1] == EvaluationOptions()


def test_options_of_plug_ins_are_read_as_yaml() -> None:
    assert parse_options(["a=1", "long-name = [x, 2.5]", "text=a=b"]) == {
        "a": 1,
        "long_name": ["x", 2.5],
        "text": "a=b",
    }
    for word, says in (("a", "write NAME=VALUE"), ("=1", "write NAME=VALUE"), ("a=[", "cannot be read as YAML")):
        with pytest.raises(UserError, match=says):
            parse_options([word])


def test_the_command_refuses_before_it_loads_a_model(run: Run, tmp_path: Path) -> None:
    for words, says in (
        (("--by", "type"), "evaluation demo does not use --by"),
        (("nowhere.jsonl",), "nowhere.jsonl: there is no such file"),
        (("a.jsonl", "--evaluation", "demo"), "evaluation demo does not use DATA"),
        (("--seed", 3, "--option", "seed=4"), "--option seed: it is also given as an option of the command"),
    ):
        code, stdout, stderr = run("evaluate", "NO_MODEL", "--out", tmp_path / "out", *words)
        assert code == 2 and stderr.count("\n") == 1 and stderr.startswith("error: ") and says in stderr, stderr
        assert not stdout and not list(tmp_path.iterdir())
