"""The best validation: its checkpoint stays, its model is written, and a run without a better one ends."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from janus_train.config import Config
from janus_train.errors import UserError
from janus_train.interop.convert import export_model
from janus_train.train.best import Best
from janus_train.train.run import run
from janus_train.train.validation import Validation
from tests.helpers import config_of, read_lines
from tests.processes import job
from tests.train.conftest import SMALL
from tests.train.validating import held_out_recipe

Small = Callable[..., Config]
PLAN = ("run.validate_every=1", "run.validation_samples=2", "run.keep_checkpoints=1", "run.planned_steps=9")
KEEP = "run.keep_best=validation/loss"


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return f"data.recipe={held_out_recipe(tmp_path)}"


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """What the validations of the steps give, the first step's first; they are computed all the same."""
    given: list[float] = []
    measure = Validation.run
    counts = iter(range(99))

    def run_validation(self: Validation, backend: Any) -> dict[str, Any]:
        metrics = measure(self, backend)
        value = given[next(counts)]
        return metrics | {"validation/loss": value if math.isfinite(value) else None}

    monkeypatch.setattr(Validation, "run", run_validation)
    yield given


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").iterdir())


def training(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "training.json").read_text())


def test_the_best_step_is_the_first_with_the_lowest_value() -> None:
    options = config_of("+stage=2", "run.validate_every=1", KEEP, "run.patience=3").run
    best = Best(options)
    series = [3.0, 2.0, None, 2.0, 2.5]
    assert [best.judge(step, {"validation/loss": value}) for step, value in enumerate(series, 1)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert (best.all.step, best.all.value, best.all.num_later, best.is_out_of_patience) == (2, 2.0, 3, True)
    again = Best(options, [(1, 3.0), (2, 2.0), (3, None)], checkpoints=[1, 3])  # that of step 2 is gone
    assert (again.all.step, again.kept.step, again.is_out_of_patience) == (2, 1, False)
    assert again.judge(4, {"validation/loss": 2.7}) and again.kept.step == 4 and again.all.num_later == 2


def test_pruning_leaves_the_best_checkpoint_and_its_model_is_written(
    small: Small, recipe: str, values: list[float], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values += [5.0, 3.0, 4.0, 3.5, 3.2]
    folder = run(small(2, recipe, *PLAN, KEEP, "run.steps=5"))  # nothing but the best ones and the last is saved
    assert checkpoints(folder) == [2, 5]
    record = {"metric": "validation/loss", "step": 2, "value": 3.0, "folder": "best"}
    assert training(folder / "final") == {"stage": 2, "step": 5, "best": record}
    assert training(folder / "best") == {"stage": 2, "step": 2, "best": record}
    said = capfd.readouterr().err
    assert f"the best validation/loss is 3.0000 at step 2; its model is in {folder}/best" in said
    best, saved = load_file(folder / "best/model.safetensors"), {}
    for path in (folder / "checkpoints/step-000002").glob("rank-*.safetensors"):
        saved |= {name.removeprefix("weight/"): t for name, t in load_file(path).items() if name.startswith("weight/")}
    assert len(saved) > 20 and all(torch.equal(best[name].flatten(), tensor) for name, tensor in saved.items())
    final = load_file(folder / "final/model.safetensors")
    assert final.keys() == best.keys() and any(not torch.equal(final[name], best[name]) for name in saved)
    export_model(str(folder / "best"), tmp_path / "shared", "hf")
    assert "| steps | 2 (" in (tmp_path / "shared/README.md").read_text()


def test_the_best_survives_a_resume_and_a_better_one_replaces_it(
    small: Small, recipe: str, values: list[float]
) -> None:
    values += [2.0, 4.0, 3.0, 3.0, 1.5, 1.8]
    plan = (recipe, *PLAN, KEEP)
    folder = run(small(2, *plan, "run.steps=3"))
    assert checkpoints(folder) == [1, 3] and training(folder / "best")["step"] == 1
    run(small(2, *plan, "run.steps=4"))
    assert checkpoints(folder) == [1, 4]
    run(small(2, *plan, "run.steps=5"))
    assert checkpoints(folder) == [5]
    assert training(folder / "final")["best"]["folder"] == "final" and not (folder / "best").exists()
    run(small(2, *plan, "run.steps=6"))
    assert checkpoints(folder) == [5, 6] and training(folder / "best")["step"] == 5


def test_a_best_checkpoint_that_is_gone_or_damaged_is_said(
    small: Small, recipe: str, values: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    values += [2.0, 4.0, 3.0, 3.5]
    plan = (recipe, *PLAN, KEEP)
    folder = run(small(2, *plan, "run.steps=2"))
    shutil.rmtree(folder / "checkpoints/step-000001")
    run(small(2, *plan, "run.steps=3"))  # the best of those that there are
    assert checkpoints(folder) == [3] and training(folder / "final")["best"]["step"] == 3
    (folder / "checkpoints/step-000003/rank-00000.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="holds no valid checkpoint"):
        run(small(2, *plan, "run.steps=4"))


def test_patience_ends_the_run_with_a_model_and_a_larger_one_continues(
    small: Small, recipe: str, values: list[float], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values += [3.0, 2.0, math.nan, 2.5, 1.0, 2.0]
    plan = (recipe, *PLAN, "run.steps=6")
    folder = run(small(2, *plan, "run.patience=2"))
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [1, 2, 3, 4]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["finished"], manifest["steps"], manifest["patience"]) == (True, 4, 2)
    assert training(folder / "final") == {"stage": 2, "step": 4, "best": {"metric": "validation/loss", "step": 2, "value": 2.0, "folder": None}}  # fmt: skip
    assert checkpoints(folder) == [4]
    assert "the run ends at step 4, after 2 validations without a new best (run.patience)" in capfd.readouterr().err
    run(small(2, *plan, "run.patience=2"))  # it stays ended
    assert f"{folder} is finished at step 4" in capfd.readouterr().err
    run(small(2, *plan, "run.patience=4"))
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    values += [3.0] * 6
    whole = run(small(2, *plan, f"output_dir={tmp_path / 'whole'}"))
    assert [line["batch_digest"] for line in lines] == [
        line["batch_digest"] for line in read_lines(whole / "metrics.jsonl")
    ]


def test_a_run_that_was_killed_before_its_model_was_written_does_not_train_on(
    small: Small, recipe: str, values: list[float]
) -> None:
    values += [3.0, 4.0]
    config = small(2, recipe, *PLAN, "run.steps=6", "run.patience=1")
    folder = run(config)
    shutil.rmtree(folder / "final")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"finished": False}))
    run(config)
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [1, 2]
    assert training(folder / "final")["step"] == 2


def test_values_on_other_samples_are_not_compared(small: Small, recipe: str, values: list[float]) -> None:
    values += [1.0, 2.0]
    folder = run(small(2, recipe, *PLAN, KEEP, "run.steps=1"))
    run(small(2, recipe, *PLAN, KEEP, "run.steps=2", "run.validation_samples=3"))
    assert training(folder / "final")["best"]["step"] == 2 and checkpoints(folder) == [2]


NO_SUCH_VALUE = (
    r"run\.keep_best=validation/loss/image: validation has no such value, it has validation/loss, "
    r"validation/loss/understanding, .*validation/source/more$"
)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("run.steps=1", "run.keep_best=validation/loss/image"), NO_SUCH_VALUE),
        (("run.validate_every=0", "run.patience=3"), "run: patience needs validations: set validate_every"),
        (("run.validate_every=0", KEEP), "run: keep_best needs validations: set validate_every"),
        (("run.patience=0",), "run.patience"),
    ],
)
def test_mistakes_are_one_line(
    small: Small, recipe: str, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        run(small(2, recipe, *PLAN, *overrides))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_two_processes_keep_the_best_and_end_together(random_base: Path, tmp_path: Path) -> None:
    """Sharded weights, and a rate at which no validation after the first is better."""
    given = (f"init_from={random_base}", f"output_dir={tmp_path / 'run'}", f"data.recipe={held_out_recipe(tmp_path)}")
    more = ("optim.learning_rate=0.5", "optim.warmup_steps=0", "batch.micro_rows=1", "run.steps=9", "run.patience=2")
    words = ("+stage=2", *SMALL, *PLAN, *given, *more, KEEP)
    fsdp2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    with job(tmp_path / "log", words, world_size=2, **fsdp2) as started:
        assert started.codes(300) == [0, 0], started.said()
    folder = tmp_path / "run"
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [1, 2, 3]
    assert checkpoints(folder) == [1, 3]
    assert training(folder / "best")["step"] == 1 and training(folder / "final")["step"] == 3
    saved = load_file(folder / "checkpoints/step-000001/rank-00001.safetensors")
    best = load_file(folder / "best/model.safetensors")
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    rows = saved[f"weight/{name}"]
    assert torch.equal(best[name].flatten()[-rows.numel() :], rows)
