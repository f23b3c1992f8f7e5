"""What people type by habit: each mistake is one line that names the option and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_train.compose import check_overrides, compose_config
from janus_train.errors import UserError
from tests.helpers import Run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optim.lr=1e-4"], "optim.lr: no such option; did you mean optim.learning_rate?"),
        (["learning_rate=1e-4"], "learning_rate: no such option; did you mean optim.learning_rate?"),
        (["optim.learning_rat=1"], "optim.learning_rat: no such option; did you mean optim.learning_rate?"),
        (["run.step=3"], "run.step: no such option; did you mean run.steps?"),
        (["peft.rank=3"], "peft.rank: LoRA is not enabled; did you mean +peft=lora?"),
        (["--learning_rate", "1e-4"], "--learning_rate: options are written without dashes, optim.learning_rate=value"),
        (
            ["--learning-rate=1e-4"],
            "--learning-rate=1e-4: options are written without dashes, optim.learning_rate=1e-4",
        ),
        (["--nonsense"], "--nonsense: options are written without dashes, key=value"),
        (
            ["-m", "optim.learning_rate=1e-4,3e-4"],
            "-m is not supported: start a run for each value, for v in 1e-4 3e-4; do accelerate launch train.py ... "
            "optim.learning_rate=$v output_dir=outputs/$v; done",
        ),
        (
            ["--multirun", "train_parts=[image_head,language_model]"],
            "--multirun is not supported: start a run for each",
        ),
        (["seed=1,2"], "seed=1,2: a list is seed=[1,2]; or start a run for each value, for v in 1 2; do accelerate"),
        (
            ["--config-name=mine"],
            "--config-name is not supported: put the options into FOLDER/exp/mine.yaml and add --config-dir FOLDER +exp=mine",
        ),
        (["--config-dir", "no/such", "+exp=mine"], "--config-dir no/such: there is no such folder"),
        (["--config-dir"], "--config-dir needs a folder"),
        (["optim.lr="], "optim.lr: no such option; did you mean optim.learning_rate?"),
        (["model=huge"], "model=huge: no such model, choose from_folder, janus_pro_1b, janus_pro_7b, tiny"),
        (["output_dir=run (1)"], "quote special characters: \"output_dir='run (1)'\""),
    ],
)
def test_a_habit_from_elsewhere_is_one_line_with_the_fix(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_overrides(["+stage=1", *words])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("words", [["--cfg", "job"], ["-c", "job", "--resolve"], ["output_dir='run (1)'"], ["--help"]])
def test_what_hydra_offers_and_is_supported_passes(words: list[str]) -> None:
    check_overrides(["+stage=1", *words])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of the user's with two files of options, at a path that needs quotes."""
    folder = tmp_path / "Ann's configs (1)"
    (folder / "exp").mkdir(parents=True)
    (folder / "exp/mine.yaml").write_text("# @package _global_\noptim:\n  learning_rate: 3.0e-5\nrun: {steps: 7}\n")
    (folder / "model").mkdir()
    (folder / "model/cool.yaml").write_text("defaults: [tiny]\nname: cool\ntemperature: 0.5\n")
    return folder


def test_a_folder_of_ones_own_options_is_composed_over_ours(own: Path) -> None:
    config = compose_config(["+stage=2", "+exp=mine", "model=cool", "batch.row_tokens=512", "run.steps=9"], own)
    assert (config.optim.learning_rate, config.run.steps, config.model.temperature) == (3e-5, 9, 0.5)
    for words in (["--config-dir", str(own)], [f"--config-dir={own}"], ["-cd", str(own)]):
        check_overrides(["+stage=2", *words, "+exp=mine"])


def test_mistakes_in_ones_own_folder_are_one_line(own: Path) -> None:
    (own / "bare").mkdir()
    (own / "bare/a.yaml").write_text("optim: {learning_rate: 1.0}\n")
    (own / "exp/wrong.yaml").write_text("# @package _global_\noptim: {lr: 1.0}\n")
    (own / "exp/broken.yaml").write_text("# @package _global_\noptim: {lr\n")
    for words, message in (
        (["+exp=other"], "exp=other: no such exp, choose broken, mine, wrong"),
        (["+bare=a"], "begins with the line '# @package _global_'"),
        (["+exp=wrong"], "optim.lr: no such option"),
        (["+exp=broken"], "is not valid YAML"),
    ):
        with pytest.raises(UserError) as error:
            compose_config(["+stage=2", *words], own)
        assert message in str(error.value) and "\n" not in str(error.value)
    (own / "model/tiny.yaml").write_text("name: tiny\n")
    with pytest.raises(
        UserError, match=r"model/tiny\.yaml is also in configs/, which comes first: give it another name"
    ):
        compose_config(["+stage=2", "+exp=mine"], own)


def test_plan_and_inspect_take_the_folder_too(own: Path, run: Run) -> None:
    small = ("model=cool", "batch.row_tokens=256", "batch.rows_per_step=2", "data=demo", "data.num_workers=0")
    for command, words in (("plan", ("+exp=mine",)), ("inspect", ("+exp=mine", *small))):
        code, out, err = run(command, "+stage=1", *words, "--config-dir", own)
        assert code == 0 and out, err
