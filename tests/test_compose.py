"""What people type by habit: each mistake is one line that names the option and the fix."""

from __future__ import annotations

import pytest

from janus_train.compose import check_overrides
from janus_train.errors import UserError


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
        (["-m"], "-m is not supported: start one run per command, each with its own output_dir"),
        (["--multirun", "seed=1,2"], "--multirun is not supported: start one run per command"),
        (["--config-name=mine"], "--config-name is not supported: give the options as key=value"),
        (["--config-dir", "D", "+exp=mine"], "--config-dir is not supported: give the options as key=value"),
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
