"""The plan: what each arm changes about the demonstration's three stages, and the commands that follow from it.

    ARMS -> steps(...): the commands of all seeds in order, each with the one whose result it needs

A stage that two arms have in common is trained once per seed, in the folder of the arm that it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from janus_train.compose import compose_config
from janus_train.files import read_yaml
from janus_train.paths import resolve

STAGES = (1, 2, 3)
CLASS_IMAGES = "class_images.yaml"
"""The recipe, in the output folder, of stage 2 with class images in place of dense captions."""
LAUNCH = ("accelerate", "launch", "--quiet", "--config_file", "launch/accelerate/cpu.yaml", "train.py")
EVALUATE = ("env", "OMP_NUM_THREADS=1", "janus-train", "evaluate")
SET_BY_PLAN = ("stage", "output_dir", "seed", "init_from", "resume", "run.cpu_threads")


@dataclass(frozen=True)
class Phase:
    """A command of a stage; it goes on where the one before it ended."""

    words: tuple[str, ...] = ()
    until: Fraction = Fraction(1)
    """The share of the stage's steps that are done at its end."""


@dataclass(frozen=True)
class Arm:
    phases: Mapping[int, tuple[Phase, ...]] = field(default_factory=dict)
    """The stages that differ from the demonstration's."""
    shares: tuple[str, int] = ("", 0)
    """Another arm, and the number of its first stages that are also this arm's."""
    guidances: tuple[int | None, ...] = (None,)
    """The guidance of each evaluation; None: the demonstration's."""


_NO_DROPOUT = (Phase(("data.guidance_dropout=0",)),)
ARMS = {
    "pro": Arm(guidances=(None, 1)),
    "stage3_7_3_10": Arm(
        {3: (Phase(("ratio.understanding=7", "ratio.text=3", "ratio.generation=10")),)}, shares=("pro", 2)
    ),
    "short_stage1": Arm({1: (Phase(until=Fraction(1, 3)),)}),
    # one run of two recipes: by resume=force AdamW's moments and the other sources go on as within a stage
    "imagenet_in_stage2": Arm(
        {2: (Phase((f"data.recipe={{out}}/{CLASS_IMAGES}",), Fraction(2, 3)), Phase(("resume=force",)))},
        shares=("short_stage1", 1),
    ),
    "trained_llm_stage1": Arm(
        {1: (Phase(("train_parts=[understanding_adaptor,generation_adaptor,image_head,language_model]",)),)}
    ),
    "no_dropout": Arm(dict.fromkeys(STAGES, _NO_DROPOUT), guidances=(None, 1)),
}


@dataclass(frozen=True)
class Settings:
    """What all arms have in common."""

    steps: tuple[int, ...]
    """The demonstration's numbers of steps, by stage."""
    num_prompts: int
    num_questions: int
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """A command, and the name of the step that must be done before it."""

    name: str
    command: tuple[str, ...]
    after: str | None


def steps_of_stages(overrides: Sequence[str]) -> tuple[int, ...]:
    """The number of steps of each stage with these options."""
    return tuple(compose_config([f"+stage={stage}", *overrides]).run.steps for stage in STAGES)


def steps(arms: Iterable[str], seeds: Iterable[int], out: Path, settings: Settings) -> list[Step]:
    """All steps of the arms, with those that they share, seed by seed."""
    planned: dict[str, Step] = {}
    for seed in seeds:
        for arm in arms:
            for step in _steps_of(arm, seed, out, settings):
                planned.setdefault(step.name, step)
    return list(planned.values())


def evaluation_folder(guidance: int | None) -> str:
    return "evaluation" if guidance is None else f"evaluation_guidance_{guidance}"


def _steps_of(name: str, seed: int, out: Path, settings: Settings) -> list[Step]:
    arm = ARMS[name]
    planned = [step for stage in STAGES for step in _training(name, stage, seed, out, settings)]
    numbers = ("--num-prompts", str(settings.num_prompts), "--num-questions", str(settings.num_questions))
    for guidance in arm.guidances:
        folder = f"{name}/seed{seed}/{evaluation_folder(guidance)}"
        words = () if guidance is None else ("--guidance", str(guidance))
        model = out / name / f"seed{seed}/stage3/final"
        command = (*EVALUATE, str(model), "--out", str(out / folder))
        planned.append(Step(folder, (*command, *numbers, *words), f"{name}/seed{seed}/stage3"))
    return planned


def _training(name: str, stage: int, seed: int, out: Path, settings: Settings) -> list[Step]:
    """The commands of a stage, the last of which has the stage's name."""
    arm = ARMS[name]
    source, num_shared = arm.shares
    if stage <= num_shared:
        return _training(source, stage, seed, out, settings)
    folder = f"{name}/seed{seed}/stage{stage}"
    after = f"{source if stage - 1 <= num_shared else name}/seed{seed}/stage{stage - 1}" if stage > 1 else None
    start = (f"init_from={out / after / 'final'}",) if after else ()
    phases = arm.phases.get(stage, (Phase(),))
    planned: list[Step] = []
    for number, phase in enumerate(phases, 1):
        num_steps = max(1, round(settings.steps[stage - 1] * phase.until))
        words = (
            f"+stage={stage}",
            *settings.overrides,
            f"output_dir={out / folder}",
            f"seed={seed}",
            "run.cpu_threads=1",
            f"run.steps={num_steps}",
            *start,
            *(word.format(out=out) for word in phase.words),
        )
        step_name = folder if number == len(phases) else f"{folder}-phase{number}"
        planned.append(Step(step_name, (*LAUNCH, *words), after))
        after = step_name
    return planned


def class_images_recipe(overrides: Sequence[str]) -> dict[str, Any]:
    """Stage 2's recipe with stage 1's generation data, as in the first Janus, which took ImageNet for most of stage 2."""
    recipes = []
    for stage in (1, 2):
        path = resolve(str(compose_config([f"+stage={stage}", *overrides]).data.recipe)).absolute()
        recipe = read_yaml(path)
        for source in recipe["sources"]:
            source["paths"] = [str(path.parent / place) for place in source["paths"]]
        recipes.append(recipe)
    classes, dense = (
        [source for source in recipe["sources"] if (source["kind"] == "generation") == is_generation]
        for recipe, is_generation in zip(recipes, (True, False), strict=True)
    )
    return recipes[1] | {"name": f"{recipes[1]['name']}-class-images", "sources": [*classes, *dense]}
