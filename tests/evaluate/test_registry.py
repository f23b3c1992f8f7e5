"""Evaluations are found by name, and the command runs the one that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from janus_train.errors import UserError
from janus_train.evaluate.registry import get_evaluation, register_evaluation
from tests.helpers import Run

COUNTING = """
import json

from rich.table import Table

from janus_train.evaluate.options import EvaluationOptions
from janus_train.evaluate.registry import register_evaluation


class Options(EvaluationOptions):
    seed: int = 0
    unit: float = 1


class Parameters:
    def run(self, loaded, out, options, progress):
        number = sum(parameter.numel() for parameter in loaded.janus.parameters())
        progress("count", 1, 1)
        results = {"parameters": number / options.unit, "seed": options.seed}
        out.mkdir(parents=True)
        (out / "results.json").write_text(json.dumps(results))
        return results

    def table(self, results):
        table = Table("measure", "value")
        table.add_row("parameters", str(results["parameters"]))
        return table


register_evaluation("parameters", Parameters(), Options)
"""


@pytest.mark.usefixtures("registries")
def test_a_plug_ins_evaluation_runs_by_its_name(
    run: Run, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    monkeypatch.chdir(tmp_path)
    words = ("evaluate", random_base, "--out", tmp_path / "e", "--evaluation", "parameters", "--seed", 5)
    code, _, stderr = run(*words)
    assert code == 2 and "error: --evaluation: there is no evaluation 'parameters', known are demo, own_data" in stderr
    code, stdout, stderr = run(*words, "--plugin", "counting")
    assert code == 0, stderr
    assert "parameters" in stdout and stdout.endswith(f"results: {tmp_path / 'e/results.json'}\n")
    assert "count: 1 of 1" in stderr
    assert '"seed": 5' in (tmp_path / "e/results.json").read_text()


@pytest.mark.usefixtures("registries")
def test_two_modules_cannot_have_one_name() -> None:
    class Another:
        def run(self, *arguments: Any) -> dict[str, Any]:
            return {}

        def table(self, results: dict[str, Any]) -> Any:
            return None

    with pytest.raises(UserError, match=r"evaluation 'demo' of .*test_registry: janus_train\.demo\.plugin has one"):
        register_evaluation("demo", Another())
    assert type(get_evaluation("demo").evaluation).__module__ == "janus_train.demo.plugin"
