"""The ablations: what each arm changes, that nothing is run twice, and a page that says no more than the results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.ablations import __main__ as command
from benchmarks.ablations.page import QUESTIONS, page
from benchmarks.ablations.plan import ARMS, CLASS_IMAGES, Settings, Step, class_images_recipe, steps, steps_of_stages
from benchmarks.ablations.run import collect, prepare, run
from janus_train.data.recipe import read_recipe
from janus_train.errors import UserError
from tests.helpers import config_of, read_lines

OUT = Path("/out")
SETTINGS = Settings((500, 1300, 1000), 200, 400)
PLACES = ("output_dir", "init_from")


def planned(*arms: str, seeds: tuple[int, ...] = (0,)) -> dict[str, Step]:
    return {step.name: step for step in steps(arms or ARMS, seeds, OUT, SETTINGS)}


def words_of(step: Step) -> dict[str, str]:
    return dict(word.split("=", 1) for word in step.command[step.command.index("train.py") + 1 :])


def changes(arm: str, step: str, of_pro: str | None = None) -> dict[str, str]:
    """The words of an arm's step that the demonstration's same stage does not have, without folders."""
    words, pro = words_of(planned()[f"{arm}/seed0/{step}"]), words_of(planned()[f"pro/seed0/{of_pro or step}"])
    assert words.keys() >= pro.keys()
    return {key: value for key, value in words.items() if key not in PLACES and pro.get(key) != value}


def test_each_arm_changes_what_it_is_named_for() -> None:
    assert changes("stage3_7_3_10", "stage3") == {
        "ratio.understanding": "7",
        "ratio.text": "3",
        "ratio.generation": "10",
    }
    assert changes("short_stage1", "stage1") == {"run.steps": "167"}
    phase = {"run.steps": "867", "data.recipe": f"/out/{CLASS_IMAGES}"}
    assert changes("imagenet_in_stage2", "stage2-phase1", "stage2") == phase
    assert changes("imagenet_in_stage2", "stage2") == {"resume": "force"}
    for stage in ("stage1", "stage2", "stage3"):
        assert changes("no_dropout", stage) == {"data.guidance_dropout": "0"}
    for arm in ("short_stage1", "trained_llm_stage1"):
        assert not changes(arm, "stage2") and not changes(arm, "stage3")
    assert not changes("imagenet_in_stage2", "stage3")
    [parts] = changes("trained_llm_stage1", "stage1").values()
    trained = config_of("+stage=1", f"train_parts={parts}").train_parts
    assert trained == (*config_of("+stage=1").train_parts, "language_model")


def test_all_commands_compose_with_the_demonstrations_steps() -> None:
    for step in planned().values():
        if "train.py" in step.command:
            config = config_of(*step.command[step.command.index("train.py") + 1 :])
            assert config.run.cpu_threads == 1 and config.output_dir == words_of(step)["output_dir"]
    assert steps_of_stages(["run.steps=9"]) == (9, 9, 9)
    assert steps_of_stages([]) == tuple(config_of(f"+stage={stage}").run.steps for stage in (1, 2, 3))


def test_each_step_starts_from_the_one_before_it_and_shared_stages_are_trained_once() -> None:
    every = steps(ARMS, (0, 1), OUT, SETTINGS)
    before: set[str] = set()
    for step in every:
        assert step.after is None or step.after in before
        before.add(step.name)
        if "train.py" in step.command:
            words = words_of(step)
            assert words["seed"] == step.name.split("seed")[1][0]
            if step.after and "phase" not in step.after:
                assert words["init_from"] == f"/out/{step.after}/final"
            elif not step.after:
                assert words["+stage"] == "1" and "init_from" not in words
    assert len(before) == len(every)
    assert set(planned("stage3_7_3_10")) == {
        *(f"pro/seed0/stage{stage}" for stage in (1, 2)),
        *(f"stage3_7_3_10/seed0/{name}" for name in ("stage3", "evaluation")),
    }
    assert planned("imagenet_in_stage2")["imagenet_in_stage2/seed0/stage2-phase1"].after == "short_stage1/seed0/stage1"
    guidance_1 = [name for name, step in planned().items() if step.command[-2:] == ("--guidance", "1")]
    assert guidance_1 == [f"{arm}/seed0/evaluation_guidance_1" for arm in ("pro", "no_dropout")]


def test_class_images_replace_the_dense_captions_alone(tmp_path: Path) -> None:
    path = tmp_path / CLASS_IMAGES
    path.write_text(yaml.safe_dump(class_images_recipe([])))
    mixed, stage1, stage2 = (
        {source.name: source for source in read_recipe(recipe).sources}
        for recipe in (path, *(Path(str(config_of(f"+stage={stage}").data.recipe)) for stage in (1, 2)))
    )
    others = {name for name, source in stage2.items() if source.kind != "generation"}
    classes = {name for name, source in stage1.items() if source.kind == "generation"}
    assert others and classes and mixed.keys() == others | classes
    for name, source in mixed.items():
        original = (stage1 if name in classes else stage2)[name]
        assert source.model_copy(update={"paths": original.paths}) == original
        assert all(Path(place).is_absolute() and Path(place).parent.is_dir() for place in source.paths)


def python(name: str, code: str, after: str | None = None) -> Step:
    return Step(name, (sys.executable, "-c", code), after)


def test_what_is_done_is_not_run_again_and_nothing_follows_a_failure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, SETTINGS, {})
    say = "from pathlib import Path; Path({path!r}).open('a').write('{word}')"
    log = str(tmp_path / "log")
    chain = [
        python("a/seed0/stage1", say.format(path=log, word="1")),
        python("a/seed0/stage2", say.format(path=log, word="2"), "a/seed0/stage1"),
        python("b/seed0/stage1", "raise SystemExit('no room')"),
        python("b/seed0/stage2", say.format(path=log, word="never"), "b/seed0/stage1"),
    ]
    assert run(chain, tmp_path, jobs=2) == ["b/seed0/stage1"]
    assert Path(log).read_text() == "12" and "no room" in (tmp_path / "steps/b-seed0-stage1.log").read_text()
    assert "failed: b/seed0/stage1, exit code 1" in capfd.readouterr().out
    chain[2] = python("b/seed0/stage1", "pass")
    assert run(chain, tmp_path, jobs=1) == []
    assert Path(log).read_text() == "12never"


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    prepare(tmp_path, SETTINGS, {})
    prepare(tmp_path, SETTINGS, {})
    with pytest.raises(UserError, match=r"other settings \(num_prompts 200 -> 20\): choose another --out"):
        prepare(tmp_path, Settings(SETTINGS.steps, 20, 400), {})


def test_what_the_plan_sets_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["ablations", "--seeds", "0", "seed=3"])
    with pytest.raises(SystemExit):
        command.main()
    assert "seed=3: seed is set by the plan" in capsys.readouterr().err


def line(arm: str, seed: int, background: float, answer: float = 50.0, guidance: int | None = None) -> dict[str, Any]:
    values = {"background": ("generation", background), "answer_count": ("understanding", answer)}
    return {
        "arm": arm,
        "seed": seed,
        "evaluation": f"evaluation_guidance_{guidance}" if guidance else "evaluation",
        "guidance": float(guidance or 2),
        "measures": [
            {"name": name, "group": group, "percent": percent, "chance": 12.5}
            for name, (group, percent) in values.items()
        ],
        "perplexity": 2.5,
        "steps": [500, 1300, 1300],
        "num_prompts": 20,
        "num_questions": 400,
        "overrides": ["batch.rows_per_step=4"],
        "commit": "0123456789",
        "machine": "x86_64",
        "processor": "A Processor",
        "cpus": 2,
        "gpus": [],
        "torch": "2.13",
    }


def section(text: str, name: str) -> str:
    title = next(question.title for question in QUESTIONS if question.name == name)
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_page_has_means_deviations_and_what_exceeds_them() -> None:
    lines = [line("pro", seed, value, 50 + seed) for seed, value in enumerate((60, 62, 64))]
    lines += [line("stage3_7_3_10", seed, value, 51 + seed) for seed, value in enumerate((71, 70, 69))]
    lines += [line("pro", seed, 30, guidance=1) for seed in range(3)]
    lines += [line("no_dropout", seed, 40 + seed, guidance=guidance) for seed in range(3) for guidance in (None, 1)]
    text = page(lines)
    assert "x86_64, A Processor, 2 cores, no GPU; torch 2.13; one thread per run. Commit 0123456." in text
    assert (
        "`python -m benchmarks.ablations --seeds 0 1 2 --steps 500 1300 1300 --num-prompts 20 batch.rows_per_step=4`"
        in text
    )
    ratio = section(text, "ratio")
    assert "| measure | chance | `pro` | `stage3_7_3_10` |" in ratio
    assert "| background | 12.5 | 62.0 ± 2.0 (60.0, 62.0, 64.0) | 70.0 ± 1.0 (71.0, 70.0, 69.0) |" in ratio
    assert (
        "`stage3_7_3_10` beside `pro`: by more than the seeds' spread higher in background (+8.0); 2 of 3 measures"
        in ratio
    )
    assert "Not run" not in ratio and "short_stage1" not in section(text, "stage1").split("<!--")[0]
    dropout = section(text, "dropout")
    assert "| `pro`, guidance 2 | `no_dropout`, guidance 2 | `pro`, guidance 1 | `no_dropout`, guidance 1 |" in dropout
    [answers] = [row for row in dropout.splitlines() if row.startswith("| answer count")]
    assert answers.endswith(" |  |  |")
    assert "`no_dropout`, guidance 1 beside `pro`, guidance 1: by more than the seeds' spread higher in" in dropout
    assert "lower in background (-21.0)" in dropout


def test_the_page_says_what_was_not_run_and_that_one_seed_shows_nothing() -> None:
    text = page([line("stage3_7_3_10", 0, 60.0), line("pro", 0, 50.0)])
    assert "one seed shows no spread" in section(text, "ratio")
    only = page([line("short_stage1", 0, 60.0)])
    assert "Not run." in section(only, "ratio") and "60.0 (60.0)" in section(only, "stage1")


def test_what_is_written_by_hand_is_kept() -> None:
    text = page([line("pro", 0, 60.0)])
    paper = next(question.paper for question in QUESTIONS if question.name == "ratio")
    assert paper in text
    by_hand = "By hand:\n\n- a list \\1"
    again = page([line("pro", 0, 70.0)], text.replace(paper, by_hand))
    assert by_hand in section(again, "ratio") and paper not in again and "70.0" in again
    assert page([line("pro", 0, 60.0)], text) == text


def test_no_page_without_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["ablations", "--out", str(tmp_path), "--page", str(target)])
    with pytest.raises(SystemExit, match="has no results"):
        command.main()
    assert not target.exists()


def test_an_evaluation_counts_once_its_step_is_done(tmp_path: Path) -> None:
    prepare(tmp_path, SETTINGS, {})
    folder = tmp_path / "pro/seed2/evaluation"
    folder.mkdir(parents=True)
    measure = {"name": "count", "group": "generation", "right": 1, "n": 20, "percent": 5.0, "chance": 1.0}
    measures = [measure | {"label": "Number"}]
    results = {"guidance": 2.0, "temperature": 0.7, "measures": measures, "text": {"perplexity": 3.0}}
    (folder / "results.json").write_text(json.dumps(results))
    collect(tmp_path)
    assert not read_lines(tmp_path / "results.jsonl")
    assert run([python("pro/seed2/evaluation", "pass")], tmp_path, jobs=1) == []
    [found] = read_lines(tmp_path / "results.jsonl")
    assert (found["arm"], found["seed"], found["evaluation"]) == ("pro", 2, "evaluation")
    assert found["measures"] == [measure]
    assert "| count | 1.0 | 5.0 (5.0) |" in page([found])


@pytest.mark.slow
def test_class_images_then_dense_captions_end_to_end(
    tmp_path: Path, random_base: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The arm that takes the most commands; started again, it runs none of them."""
    words = ("--arms", "imagenet_in_stage2", "--seeds", "1", "--num-prompts", "2", "--num-questions", "4")
    overrides = ("run.steps=3", "batch.row_tokens=256", "data.lookahead=2", f"model.base={random_base}")
    monkeypatch.setattr(sys, "argv", ["ablations", "--out", str(tmp_path / "out"), *words, *overrides])
    command.main()
    assert capfd.readouterr().out.count("\n$ accelerate launch") + 1 == 4
    folder = tmp_path / "out/imagenet_in_stage2/seed1"
    assert [entry["step"] for entry in read_lines(folder / "stage2/metrics.jsonl")] == [1, 2, 3]
    log = (tmp_path / "out/steps/imagenet_in_stage2-seed1-stage2.log").read_text()
    assert "resume=force with other settings: data.recipe" in log
    assert [found["seed"] for found in read_lines(tmp_path / "out/results.jsonl")] == [1]
    command.main()
    assert "$" not in capfd.readouterr().out
    target = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["ablations", "--out", str(tmp_path / "out"), "--page", str(target)])
    command.main()
    assert "`imagenet_in_stage2`" in target.read_text()
