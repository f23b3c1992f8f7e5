"""The report: everything that a run and an evaluation left behind is on one page that needs nothing else."""

from __future__ import annotations

import json
import os
import shutil
from itertools import pairwise

import pytest
import yaml
from PIL import Image

from janus_train.config import PARTS
from janus_train.errors import UserError
from janus_train.report import build
from janus_train.report.charts import Series, line_chart, nice_ticks, number, smooth
from tests.pages.parsed import Page
from tests.report.making import add_validation, make_evaluation, make_run


@pytest.fixture
def demo(tmp_path):
    for stage in (1, 2, 3):
        make_run(tmp_path / f"stage{stage}", stage)
    make_evaluation(tmp_path / "evaluation")
    return tmp_path


def test_demo_page_has_everything(demo):
    path = build(demo)
    assert path == demo / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    for stage in (1, 2, 3):
        assert f"Stage {stage}" in page.text
    for label in ("Background colour", "Places of all objects", "Everything at once", "An object's neighbour"):
        assert label in page.text
    results = json.loads((demo / "evaluation/results.json").read_text())
    for m in results["measures"]:
        assert f"{m['percent']:.1f} %" in page.text
    assert "97 %" in page.text and "2.5 %" in page.text
    assert ("not reached" in page.text) == any(m.get("reached") is False for m in results["measures"])
    assert "perplexity" in page.text and "2.34" in page.text
    assert "Prompt 3: a dog face on the left, on a <red> background." in page.text
    assert "Red & blue." in page.text and "expected: Green." in page.text
    for part in PARTS:
        assert part.replace("_", " ") in page.text
    assert page.text.count("trained ") >= 3 + 4 + 5 and page.text.count("frozen") >= 4 + 3 + 2
    assert (
        "= 2:3:5 requested, that is 20.0 / 30.0 / 50.0 %; actual" in page.text
        and "0123456789" in page.text
        and "feedfacefeedface" in page.text
    )
    assert "learning_rate: 0.002" in page.text


def test_page_loads_nothing_and_runs_nothing(demo):
    html = build(demo).read_text(encoding="utf-8")
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe")]
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert sources and all(src.startswith("data:image/png;base64,") for src in sources)
    assert "http://" not in html and "https://" not in html and "url(" not in html and "@import" not in html
    assert all(alt for tag, attrs in page.tags if tag == "img" for alt in [attrs.get("alt")])


def test_menu_leads_to_sections(demo):
    page = Page(build(demo).read_text(encoding="utf-8"))
    ids = {attrs["id"] for tag, attrs in page.tags if tag == "section"}
    links = {attrs["href"][1:] for tag, attrs in page.tags if tag == "a"}
    assert links == ids and len(ids) == 8


def test_single_run(tmp_path):
    page = Page(build(make_run(tmp_path / "run", 2)).read_text(encoding="utf-8"))
    assert "tiny: stage 2" in page.text and "60 steps in 12 s" in page.text
    charts = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(charts) == 8
    assert any(attrs["aria-label"].startswith("Loss on text") for attrs in charts)


def test_layers_that_trained_and_rates_of_parts_are_shown(tmp_path):
    folder = make_run(tmp_path / "run", 2)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["train_parts"] = ["image_head", "language_model.layers.2-"]
    config["optim"] |= {"schedule": "wsd", "decay_steps": 0.25}
    config["optim"]["parts"] = {"image_head": {"learning_rate": 1e-5, "weight_decay": None}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["parts"]["language_model"] |= {"pieces": ["layers.2-3"], "trained_parameters": 10}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    text = "".join(
        json.dumps(line | {"learning_rate/image_head": line["learning_rate"] / 200}) + "\n" for line in lines
    )
    (folder / "metrics.jsonl").write_text(text)
    page = Page(build(folder).read_text(encoding="utf-8"))
    assert (
        "trained: layers.2-3" in page.text
        and "learning rate 0.002, wsd, falling over the last 25 % (image head 1e-05)" in page.text
    )
    [rates] = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg" and "Learning" in attrs["aria-label"]]
    assert rates == "Learning rate: other parts 2e-3 at step 60, image head 1e-5 at step 60"


def test_validation_stands_in_the_charts_of_training_and_answers_by_step(tmp_path):
    folder = make_run(tmp_path / "run", 2)
    plain = Page(build(folder).read_text(encoding="utf-8")).text
    assert "held out" not in plain and "Loss on held-out samples" not in plain
    add_validation(folder)
    html = build(folder).read_text(encoding="utf-8")
    page = Page(html)
    assert "Loss on held-out samples at step 60: 3.000 (photos 3.000); the lowest was 2.000 at step 40" in page.text
    charts = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    [understanding] = [label for label in charts if label.startswith("Loss on understanding")]
    assert "training" in understanding and "held out 3 at step 60" in understanding
    assert not [label for label in charts if label.startswith("Loss on images") and "held out" in label]
    assert "<b>is</b>" not in html and "Who &lt;b&gt;is&lt;/b&gt; it?" in html
    places = [page.text.index(f"Tom at {step}.") for step in (10, 20, 30, 40, 50, 60)]
    assert places == sorted(places)
    for step in range(70, 200, 10):  # more than are shown: evenly spread, with the last one
        shutil.copy(folder / "samples/step-000060.json", folder / f"samples/step-{step:06d}.json")
    text = Page(build(folder).read_text(encoding="utf-8")).text
    assert "step 190" in text and 4 <= sum(f"step {step}" in text for step in range(10, 200, 10)) <= 8


def test_answers_of_a_forged_file_are_text_or_an_error(tmp_path):
    folder = make_run(tmp_path / "run", 2)
    add_validation(folder)
    (folder / "samples/step-000060.json").write_text('{"answers": [{"question": ["x"]}]}')
    with pytest.raises(UserError, match="are not as training writes them"):
        build(folder)


def test_stage_one_has_no_text_loss(tmp_path):
    page = Page(build(make_run(tmp_path / "run", 1)).read_text(encoding="utf-8"))
    assert "Loss on images" in page.text and "Loss on text" not in page.text
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 7


def test_run_with_archived_stages(tmp_path):
    make_run(tmp_path / "run", 2)
    make_run(tmp_path / "run" / "stage1", 1)
    page = Page(build(tmp_path / "run").read_text(encoding="utf-8"))
    assert "tiny: stages 1, 2" in page.text


def test_evaluation_alone_and_empty_run(tmp_path):
    make_evaluation(tmp_path / "only")
    assert "Places of all objects" in Page(build(tmp_path / "only").read_text(encoding="utf-8")).text
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh/metrics.jsonl").write_text("")
    assert "not measured" in Page(build(tmp_path / "fresh").read_text(encoding="utf-8")).text


def test_cut_off_last_line_is_left_out_and_damage_is_named(tmp_path):
    run = make_run(tmp_path / "run", 3)
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[:-40])
    assert "59 steps" in Page(build(run).read_text(encoding="utf-8")).text
    lines = text.splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines[:4], lines[4][:30], *lines[5:]]))
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 5 is damaged"):
        build(run)


@pytest.mark.parametrize("name", ["manifest.json", "config.yaml", "results.json"])
@pytest.mark.parametrize("content", ["   ", '{"a": [1, 2', "[1]", "[" * 100_000, b"\xff\xfe", "a: &a [*a]"])
def test_damaged_files_are_one_line(run, tmp_path, name, content):
    folder = make_run(tmp_path / "run", 2)
    make_evaluation(folder)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, said = run("report", folder)
    assert code == 2 and said.count("\n") == 1 and said.startswith("error: ") and name in said and len(said) < 400


ATTACK = "<script>alert(1)</script>"


def test_values_of_forged_files_cannot_become_markup(tmp_path):
    folder = make_evaluation(tmp_path / "forged")
    results = json.loads((folder / "results.json").read_text())
    for key in ("num_prompts", "num_questions", "num_objects"):
        results[key] = f"{key} {ATTACK}"
    for m in results["measures"]:
        m |= {"n": f"n {ATTACK}", "label": f"label {ATTACK}", "group": f"group {ATTACK}"}
    results["text"] |= {"n": f"dialogues {ATTACK}", "tokens": f"tokens {ATTACK}"}
    (folder / "results.json").write_text(json.dumps(results))
    forged = {"prompt": f"prompt {ATTACK}", "picture": ATTACK, "true_picture": "", "right": {f'sort"{ATTACK}': True}}
    (folder / "pictures.jsonl").write_text(json.dumps(forged) + "\n")
    forged = dict.fromkeys(("sort", "question", "answer", "expected"), f"words {ATTACK}")
    (folder / "answers.jsonl").write_text(json.dumps(forged | {"right": False}) + "\n")
    html = build(folder).read_text(encoding="utf-8")
    page = Page(html)
    assert "<script" not in html and not [tag for tag, _ in page.tags if tag == "script"]
    names = (
        "num_prompts",
        "num_questions",
        "num_objects",
        "n",
        "label",
        "Group",
        "dialogues",
        "tokens",
        "prompt",
        "words",
    )
    for name in names:
        assert f"{name} {ATTACK}" in page.text, "the words are there all the same"


def test_settings_of_a_forged_run_cannot_become_markup(tmp_path):
    run = make_run(tmp_path / "run", 2)
    for name in ("config.yaml", "manifest.json"):
        (run / name).write_text((run / name).read_text().replace("tiny", ATTACK).replace("x86_64", ATTACK))
    html = build(run).read_text(encoding="utf-8")
    assert "<script" not in html and Page(html).text.count(ATTACK) >= 4  # title, heading, configuration, machine


@pytest.mark.parametrize("key", ["percent", "low", "high"])
def test_a_share_that_is_not_a_number_is_named_and_never_gets_into_a_style(tmp_path, key):
    folder = make_evaluation(tmp_path / "forged")
    results = json.loads((folder / "results.json").read_text())
    results["measures"][0][key] = "1%;background:url(http://x)"
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=r"forged: results\.json, .* are not as janus-train evaluate writes them"):
        build(folder)


def test_control_and_bidirectional_characters_are_shown_escaped(tmp_path):
    folder = make_evaluation(tmp_path / "only", num_images=1)
    answer = {"sort": "x", "question": "two\nlines", "answer": "a\x1b[2Jb\u202ec\ud800", "expected": "", "right": True}
    (folder / "answers.jsonl").write_text(json.dumps(answer) + "\n")
    page = Page(build(folder).read_text(encoding="utf-8"))
    assert "a\\x1b[2Jb\\u202ec\\ud800" in page.text and "two\nlines" in page.text


def test_images_outside_the_folder_are_not_read(tmp_path):
    folder = make_evaluation(tmp_path / "evaluation", num_images=1)
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(secret)
    (folder / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "notes.png").write_text("no image")
    os.mkfifo(folder / "pipe.png")
    names = [str(secret), "../secret.png", "pictures/../../secret.png", "link.png", "linked/secret.png"]
    names += ["circle.png", "notes.png", "pipe.png", "pictures", "nowhere.png", "null\0.png", "", 5, None]
    lines = [{"prompt": "p", "picture": name, "true_picture": "pictures/0000-true.png", "right": {}} for name in names]
    (folder / "pictures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "answers.jsonl").write_text("")
    page = Page(build(folder).read_text(encoding="utf-8"))
    assert page.text.count("no image") == len(names)
    assert len([tag for tag, _ in page.tags if tag == "img"]) == len(names), "the true ones are shown"


def test_an_evaluation_may_be_reached_by_a_link(tmp_path):
    make_evaluation(tmp_path / "real", num_images=2)
    (tmp_path / "link").symlink_to("real")
    assert "no image" not in Page(build(tmp_path / "link").read_text(encoding="utf-8")).text


def test_nothing_to_report(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        build(tmp_path / "nowhere")
    with pytest.raises(UserError, match="contains neither"):
        build(tmp_path)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1.37, 5.9), (-3, 3), (0, 2e-3), (5, 5), (1, 270000), (0, 0)])
def test_ticks_are_round_and_cover(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-9 and ticks[-1] >= high - 1e-9
    steps = {round(b - a, 12) for a, b in pairwise(ticks)}
    assert len(steps) == 1


def test_numbers_are_short():
    assert [number(v) for v in (0, 12000, 2e6, 0.25, 1e-4, 93.0)] == ["0", "12k", "2M", "0.25", "1e-4", "93"]


def test_smoothing_keeps_length_and_mean():
    values = [float(i % 7) for i in range(70)]
    assert len(smooth(values, 14)) == 70
    assert smooth(values, 1) == values
    assert abs(smooth(values, 15)[35] - 3) < 0.3


def test_curve_points_lie_where_they_belong():
    [curve] = line_chart("L", [Series("", [0, 10], [0.0, 4.0], "plain")]).curves
    (x0, y0), (x1, y1) = (tuple(map(float, p.split(","))) for p in curve.mean.split())
    assert x0 < x1 and y0 > y1  # the axis points down
    assert (x0, y0, x1, y1) == (46.0, 164.0, 350.0, 10.0)


def test_long_runs_stay_small():
    steps = list(range(1, 270001))
    [curve] = line_chart("L", [Series("", steps, [1.0 + (s % 9) for s in steps], "plain")]).curves
    assert len(curve.mean) + len(curve.raw) < 20000
