"""Fine-tuning on new objects: the start never sees them, the arms mix what they say, the page says no more than the results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.ablations.plan import Step
from benchmarks.fine_tuning import __main__ as command
from benchmarks.fine_tuning.page import page
from benchmarks.fine_tuning.plan import ARMS, START, Settings, steps
from benchmarks.fine_tuning.recipes import MIXTURES, NEW_OBJECTS, NUM_OWN, recipes
from janus_train.data.recipe import Recipe
from tests.helpers import config_of, read_lines

OUT = Path("/out")
SETTINGS = Settings((400, 1000, 1500), 200, 100, 200)


def planned(settings: Settings = SETTINGS, seeds: tuple[int, ...] = (0,)) -> dict[str, Step]:
    return {step.name: step for step in steps(ARMS, seeds, OUT, settings)}


def words_of(step: Step) -> dict[str, str]:
    return dict(word.split("=", 1) for word in step.command[step.command.index("train.py") + 1 :])


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recipe]:
    folder, found = tmp_path_factory.mktemp("recipes"), {}
    for name, recipe in recipes().items():
        (folder / name).write_text(yaml.safe_dump(recipe))
        stage, text = ("3", "1") if not name.startswith("stage") else (name[5], "1")
        ratio = config_of(f"+stage={stage}", f"ratio.text={0 if name in ('own.yaml', 'stage1.yaml') else text}").ratio
        found[name] = Recipe(str(folder / name), ratio, 96)
    return found


def test_the_start_is_never_shown_a_new_object_and_own_data_nothing_else(opened: dict[str, Recipe]) -> None:
    for name, recipe in opened.items():
        for source_name, (_, source) in recipe.sources.items():
            is_own = source_name.startswith("own_")
            assert not (is_own and name.startswith("stage"))
            names = {each.name for each in source.library.scene_objects}  # type: ignore[attr-defined]
            assert names == set(NEW_OBJECTS) if is_own else len(names) == 35 and not names & set(NEW_OBJECTS)
            assert (len(source) == NUM_OWN) == (is_own or name == "few50.yaml")


def test_own_and_old_data_have_their_shares_of_each_kind(opened: dict[str, Recipe]) -> None:
    for name, mixture in MIXTURES.items():
        for kind, sources in opened[f"{name}.yaml"].by_kind().items():
            own = sum(source.weight for source in sources if source.name.startswith("own_"))
            total = sum(source.weight for source in sources)
            assert own / total == pytest.approx(0 if kind == "text" else 1 - mixture.replay)


def test_all_commands_compose_and_every_arm_starts_from_the_same_model() -> None:
    found = planned(seeds=(1,))
    before: set[str | None] = {None}
    for name, step in found.items():
        assert step.after in before
        before.add(name)
        if "train.py" not in step.command:
            continue
        config = config_of(*step.command[step.command.index("train.py") + 1 :])
        assert config.run.cpu_threads == 1
        arm, seed, run = name.split("/")
        if run == "run":
            assert step.after == f"{START}/seed0/stage3"
            assert words_of(step)["init_from"] == f"/out/{step.after}/final"
            assert f"seed{config.seed}" == seed and (config.peft is not None) == arm.startswith("lora")
            assert config.run.steps == SETTINGS.fine_tuning_steps * ARMS[arm].times_steps
            assert bool(config.ratio.text) == ("own" not in arm)
    for folder in (f"{START}/seed0", *(f"{arm}/seed1" for arm in ARMS)):
        assert {f"{folder}/evaluation_new", f"{folder}/evaluation_old"} <= found.keys()


def test_a_given_model_takes_the_place_of_the_stages() -> None:
    found = planned(Settings((1, 1, 1), 1, 2, 5, model="/a/model"))
    assert not [name for name in found if name.startswith(f"{START}/seed0/stage")]
    assert {words_of(step)["init_from"] for step in found.values() if "train.py" in step.command} == {"/a/model"}


def line(arm: str, objects: str, right: int, seed: int = 0) -> dict[str, Any]:
    names = {"generation": ("background", "count", "place", "object", "all")}
    names["understanding"] = tuple(f"answer_{sort}" for sort in ("colour", "count", "place", "object", "relation"))
    measures = [
        {"name": name, "group": group, "right": right, "n": 100, "percent": right, "chance": 1.0}
        | ({"round_trips": {"percent": 98.8}} if group == "generation" else {})
        for group, of_group in names.items()
        for name in of_group
    ]
    return {
        "arm": arm,
        "seed": seed,
        "evaluation": f"evaluation_{objects}",
        "measures": measures,
        "perplexity": 2.5,
        "steps": [400, 500, 700],
        "fine_tuning_steps": 120,
        "num_prompts": 100,
        "num_questions": 200,
        "model": None,
        "overrides": [],
        "commit": "0123456789",
        "machine": "x86_64",
        "processor": None,
        "cpus": 2,
        "gpus": [],
        "torch": "2.13",
    }


def test_the_page_has_intervals_and_marks_what_got_worse() -> None:
    arm, other = list(ARMS)[:2]
    lines = [line(START, "old", 90), line(START, "new", 0)]
    lines += [line(arm, "old", 60), line(arm, "new", 80), line(other, "old", 86), line(other, "new", 78)]
    text = page(lines)
    assert (
        f"`python -m benchmarks.fine_tuning --arms {arm} {other} --steps 400 500 700 --fine-tuning-steps 120 --num-prompts 100`"
        in text
    )
    new, old = (text.split(f"## {title}\n")[1].split("\n## ")[0] for title in ("New objects", "Old objects"))
    assert f"| `{arm}` | 80 (71 to 87) |" in new and "**" not in new and "| `start` | 0 (0 to 4) |" in new
    assert f"| `{arm}` | **60** (50 to 69) |" in old and f"| `{other}` | 86 (78 to 91) |" in old
    assert "| *true images, through the VQ tokenizer* | *99* |" in new and old.count("*99*") == 5
    assert "perplexity" in old and "perplexity" not in new and "full-own-2e-4" not in text
    again = page(lines, text.replace("Not yet written.", "By hand."))
    assert again.count("By hand.") == 3 and "Not yet" not in again


def test_seeds_are_counted_together() -> None:
    arm = next(iter(ARMS))
    text = page([line(START, "old", 90), line(arm, "old", 60, seed=0), line(arm, "old", 70, seed=1)])
    assert "--seeds 0 1" in text and f"| `{arm}` | **65** (58 to 71) |" in text and "Not run." in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=3"], "seed=3: seed is set by the plan"),
        (["--model", "nowhere"], "no model is there"),
        (["--arms", "full"], "invalid choice: 'full'"),
        (["--page", "page.md"], "has no results"),
    ],
)
def test_mistakes_get_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fine_tuning", "--out", str(tmp_path / "out"), *words])
    with pytest.raises(SystemExit) as error:
        command.main()
    assert message in capsys.readouterr().err + str(error.value)
    assert not (tmp_path / "out").exists()


def test_one_arm_end_to_end(
    tmp_path: Path, random_base: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A step of LoRA from a random model, evaluated before and after; started again, nothing is run."""
    arm, out = "lora-replay50-3e-3", tmp_path / "out"
    words = ("--arms", arm, "--model", str(random_base), "--fine-tuning-steps", "1", "--num-prompts", "1")
    more_words = ("--num-questions", "5", "batch.row_tokens=256", "data.lookahead=2")
    monkeypatch.setattr(sys, "argv", ["fine_tuning", "--out", str(out), *words, *more_words])
    command.main()
    assert capfd.readouterr().out.count("$ ") == 5
    results = read_lines(out / "results.jsonl")
    evaluations = [(result["arm"], result["evaluation"]) for result in results]
    assert sorted(evaluations) == [(name, f"evaluation_{o}") for name in (arm, START) for o in ("new", "old")]
    scenes = {o: read_lines(out / arm / f"seed0/evaluation_{o}/pictures.jsonl")[0]["scene"] for o in ("new", "old")}
    assert {o: any(name in scene for name in NEW_OBJECTS) for o, scene in scenes.items()} == {"new": True, "old": False}
    command.main()
    assert "$ " not in capfd.readouterr().out
    monkeypatch.setattr(sys, "argv", ["fine_tuning", "--out", str(out), "--page", str(tmp_path / "page.md")])
    command.main()
    assert f"`{arm}`" in (tmp_path / "page.md").read_text()
