"""The plan: a model without the new objects, then the arms that fine-tune it, each evaluated on new and on old objects.

start/seed0/stage1..3 -> ARM/seedN/run -> ARM/seedN/evaluation_new, ARM/seedN/evaluation_old
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ablations.plan import EVALUATE, LAUNCH, Step
from benchmarks.fine_tuning.recipes import MIXTURES, NEW_OBJECTS, STAGES

START = "start"
"""The model before fine-tuning, which stands among the results as an arm; the arms of all seeds begin with it."""
OBJECTS = {"new": f"only=[{', '.join(NEW_OBJECTS)}]", "old": f"without=[{', '.join(NEW_OBJECTS)}]"}
"""Evaluation -> its option of `janus-train evaluate`."""
MIN_QUESTIONS = 5  # one of each sort
SET_BY_PLAN = ("stage", "output_dir", "seed", "init_from", "resume", "run.cpu_threads", "data.recipe", "peft")
_LORA = ("+peft=lora", "peft.rank=16")
METHODS = {"full": (), "lora": _LORA, "lora_head": (*_LORA, "train_parts=[generation_adaptor,image_head]")}
"""Name -> its words. `full` trains the parts of stage 3, `lora` only adapters in the language model, `lora_head` beside
them in full what stands between the language model and the codes of an image."""


@dataclass(frozen=True)
class Arm:
    method: str
    mixture: str
    """A key of `recipes.MIXTURES`."""
    learning_rate: str
    times_steps: int = 1

    @property
    def name(self) -> str:
        return f"{self.method}-{self.mixture}-{self.learning_rate}" + (f"-x{self.times_steps}" * (self.times_steps > 1))


ARMS = {
    arm.name: arm
    for arm in (
        Arm("full", "own", "1e-3"),
        Arm("full", "replay20", "1e-3"),
        Arm("full", "replay50", "1e-3"),
        Arm("full", "replay50", "1e-3", times_steps=2),
        Arm("full", "replay80", "1e-3"),
        Arm("full", "few50", "1e-3"),
        Arm("full", "own", "2e-4"),
        Arm("full", "replay50", "2e-4"),
        Arm("lora", "own", "3e-3"),
        Arm("lora", "replay50", "3e-3"),
        Arm("lora", "own", "1e-3"),
        Arm("lora", "replay50", "1e-3"),
        Arm("lora_head", "own", "1e-3"),
        Arm("lora_head", "replay50", "1e-3"),
    )
}


@dataclass(frozen=True)
class Settings:
    """What all arms have in common."""

    steps: tuple[int, ...]
    """Of the three stages."""
    fine_tuning_steps: int
    num_prompts: int
    num_questions: int
    model: str | None = None
    """A model that takes the place of the three stages' result."""
    overrides: tuple[str, ...] = ()


def steps(arms: Iterable[str], seeds: Iterable[int], out: Path, settings: Settings) -> list[Step]:
    """All commands in order: the model, its evaluation, and seed by seed those of the arms."""
    planned: list[Step] = []
    if settings.model is None:
        planned += [_stage(stage, out, settings) for stage in STAGES]
    start_model, last = _start(out, settings)
    planned += _evaluations(f"{START}/seed0", start_model, last, out, settings)
    for seed in seeds:
        for name in arms:
            folder, arm = f"{name}/seed{seed}", ARMS[name]
            run = _fine_tuning(arm, f"{folder}/run", seed, out, settings)
            planned += [run, *_evaluations(folder, out / run.name / "final", run.name, out, settings)]
    return planned


def _start(out: Path, settings: Settings) -> tuple[Path, str | None]:
    """The model that all arms start from, and the step that makes it."""
    if settings.model is not None:
        return Path(settings.model), None
    last = f"{START}/seed0/stage{STAGES[-1]}"
    return out / last / "final", last


def _stage(stage: int, out: Path, settings: Settings) -> Step:
    after = f"{START}/seed0/stage{stage - 1}" if stage > 1 else None
    words = (f"run.steps={settings.steps[stage - 1]}", f"data.recipe={out / f'stage{stage}.yaml'}")
    start = (f"init_from={out / after / 'final'}",) if after else ()
    return _training(f"{START}/seed0/stage{stage}", stage, 0, (*words, *start), after, out, settings)


def _fine_tuning(arm: Arm, folder: str, seed: int, out: Path, settings: Settings) -> Step:
    start_model, after = _start(out, settings)
    words = (
        f"init_from={start_model}",
        f"data.recipe={out / f'{arm.mixture}.yaml'}",
        f"run.steps={settings.fine_tuning_steps * arm.times_steps}",
        f"optim.learning_rate={arm.learning_rate}",
        *(() if MIXTURES[arm.mixture].replay else ("ratio.text=0",)),  # own data has no texts
        *METHODS[arm.method],
    )
    return _training(folder, STAGES[-1], seed, words, after, out, settings)


def _training(
    folder: str, stage: int, seed: int, words: tuple[str, ...], after: str | None, out: Path, settings: Settings
) -> Step:
    common = (f"+stage={stage}", *settings.overrides, f"output_dir={out / folder}", f"seed={seed}", "run.cpu_threads=1")
    return Step(folder, (*LAUNCH, *common, *words), after)


def _evaluations(folder: str, model: Path, after: str | None, out: Path, settings: Settings) -> list[Step]:
    planned = []
    for objects, option in OBJECTS.items():
        name, num_questions = f"{folder}/evaluation_{objects}", settings.num_questions
        if objects == "new":  # few objects have few held-out scenes
            num_questions = max(MIN_QUESTIONS, num_questions // 2)
        numbers = ("--num-prompts", str(settings.num_prompts), "--num-questions", str(num_questions))
        words = (str(model), "--out", str(out / name), *numbers, "--option", option)
        planned.append(Step(name, (*EVALUATE, *words), after))
    return planned
