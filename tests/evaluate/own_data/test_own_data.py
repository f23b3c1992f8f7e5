"""The evaluation on own data from end to end: a tiny model with random weights, and invented data of every form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from janus_train.data.batch import collate
from janus_train.data.types import Document, Reference, Row
from janus_train.errors import UserError
from janus_train.evaluate.image_metrics import Fid
from janus_train.evaluate.own_data import answers, image_scores
from janus_train.evaluate.own_data.generation import FOLDER
from janus_train.evaluate.own_data.options import OwnDataOptions
from janus_train.evaluate.own_data.run import evaluate
from janus_train.evaluate.own_data.samples import Sample, SampleReader
from janus_train.evaluate.own_data.sources import open_data
from janus_train.infer.load import LoadedModel, load_model
from janus_train.model.janus import PackedJanus
from tests.evaluate.tiny_models import make_clip
from tests.helpers import Run, plain_image, read_lines
from tests.pages.parsed import Page

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 60, 200), "white": (250, 250, 250)}


@pytest.fixture(scope="module")
def loaded(random_base: Path) -> LoadedModel:
    return load_model(random_base)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an image of each colour."""
    for number, (name, colour) in enumerate(COLOURS.items()):
        plain_image(colour, (60 + 20 * number, 60)).save(tmp_path / f"{name}.png")
    return tmp_path


def write(path: Path, records: Sequence[dict[str, Any] | str]) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def talk(*turns: str, **fields: Any) -> dict[str, Any]:
    return {
        "conversations": [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(turns)]
    } | fields


def measure(loaded: LoadedModel, data: Path, out: Path, **options: Any) -> dict[str, Any]:
    options = {"guidance": 1.0, "max_answer_tokens": 16, "batch_size": 4} | options
    return evaluate(loaded, out, OwnDataOptions(data=str(data), **options), lambda *progress: None)


def talks() -> list[dict[str, Any]]:
    return [
        talk(
            "<image>\nWhat colour?",
            f"{name}.",
            "Is it red?",
            "Yes" if name == "red" else "No",
            image=f"{name}.png",
            sort="a",
        )
        for name in COLOURS
    ]


FORMS: dict[str, list[dict[str, Any]]] = {
    "conversation": talks(),
    "question_answer": [{"image": f"{name}.png", "question": "Colour?", "answer": name} for name in COLOURS],
    "caption": [{"image": f"{name}.png", "caption": f"{name} card"} for name in COLOURS],
    "class_name": [{"image": f"{name}.png", "class_name": name} for name in COLOURS],
    "text": [{"text": f"{name} is a colour."} for name in COLOURS],
    "words alone": [talk(f"What is {name}?", "a colour") for name in COLOURS],
    "editing": [talk("<image>\nIn red.", "<image>", images=[f"{name}.png", "red.png"]) for name in COLOURS],
}
EXPECTED: dict[str, dict[str, Any]] = {
    "conversation": {"sources": {"d": ("understanding", "conversation")}, "asked": 8, "answers": 8},
    "question_answer": {"sources": {"d": ("understanding", "question_answer")}, "asked": 4, "answers": 4},
    "caption": {
        "sources": {
            "d, image_describe": ("understanding", "image_describe"),
            "d, request_to_image": ("generation", "request_to_image"),
        },
        "asked": 4,
        "captions": 4,
        "drawn": 4,
    },
    "class_name": {"sources": {"d": ("generation", "class_to_image")}, "drawn": 4},
    "text": {"sources": {"d": ("text", "text")}},
    "words alone": {"sources": {"d": ("text", "conversation")}, "asked": 4, "answers": 4},
    "editing": {"sources": {"d": ("generation", "conversation")}, "drawn": 4, "input": 4},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data(loaded: LoadedModel, folder: Path, form: str) -> None:
    out, expected = folder / "out", EXPECTED[form]
    results = measure(loaded, write(folder / "d.jsonl", FORMS[form]), out)
    found = {name: (source["kind"], source["template"]) for name, source in results["sources"].items()}
    assert found == expected["sources"]
    assert results == json.loads((out / "results.json").read_text(encoding="utf-8"))
    kinds = {source["kind"] for source in results["sources"].values()}
    assert set(results["losses"]["by_kind"]) == kinds and results["losses"]["loss"] > 0
    tasks = results["tasks"]
    assert (tasks["num_asked"], tasks["num_drawn"]) == (expected.get("asked", 0), expected.get("drawn", 0))
    for task in ("answers", "captions"):
        assert (results[task] or {"all": {"n": 0}})["all"]["n"] == expected.get(task, 0)
    lines, images = read_lines(out / "answers.jsonl"), read_lines(out / "images.jsonl")
    assert len(lines) == expected.get("asked", 0) and len(images) == expected.get("drawn", 0)
    for line in images:
        assert Image.open(out / line["image"]).size == Image.open(out / line["true_image"]).size == (96, 96)
    assert len(list((out / FOLDER).glob("*-input.png"))) == expected.get("input", 0)
    assert not read_lines(out / "unusable.jsonl") and results["images"] == {"n": len(images), "problems": []}


def test_the_system_prompt_stands_before_words_alone_only_if_asked_for(
    loaded: LoadedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded.encoder, "system_prompt", "Look well.")
    data = write(folder / "d.jsonl", FORMS["words alone"])
    asked: dict[bool, set[str]] = {}
    read = SampleReader.read

    def watched(self: SampleReader, *arguments: Any) -> Iterator[Sample]:
        for sample in read(self, *arguments):
            words = loaded.encoder.tokenizer.decode(sample.document.input_ids[1:].tolist())
            asked.setdefault(always, set()).add(words)
            yield sample

    monkeypatch.setattr(SampleReader, "read", watched)
    for always in (False, True):
        results = measure(loaded, data, folder / f"out-{always}", always_system=always)
        assert results["manifest"]["options"]["always_system"] is always
    assert len(asked[False]) == 4 and asked[True] == {f"Look well.\n\n{words}" for words in asked[False]}


def test_losses_in_bf16_are_nearly_those_in_fp32(loaded: LoadedModel, random_base: Path, folder: Path) -> None:
    data = write(folder / "d.jsonl", FORMS["caption"])
    options = {"num_prompts": 0, "num_questions": 0}
    rounded = measure(load_model(random_base, dtype=torch.bfloat16), data, folder / "rounded", **options)
    whole = measure(loaded, data, folder / "whole", **options)
    assert rounded["losses"]["loss"] == pytest.approx(whole["losses"]["loss"], rel=0.01)
    assert (rounded["manifest"]["precision"], whole["manifest"]["precision"]) == ("bfloat16", "float32")


def test_losses_are_the_training_forwards_with_exact_counts(loaded: LoadedModel, folder: Path) -> None:
    records = [*talks(), talk("<image>\nWhat is it?", "a card", image="red.png")]
    results = measure(loaded, write(folder / "d.jsonl", records), folder / "out")
    [source] = open_data(str(folder / "d.jsonl"), (), None, 64, 1000).sources
    total, num_targets = 0.0, 0
    for index in range(5):
        reference, kind = Reference("d", 0, index, ""), "understanding"
        document = loaded.encoder.encode_without_chance(source.source[index], source.template, kind, reference)  # type: ignore[arg-type]
        total += loss_of(loaded, document)
        num_targets += document.num_loss_tokens
    assert results["losses"]["targets"] == num_targets
    assert results["losses"]["loss"] == pytest.approx(total / num_targets, rel=1e-5)
    assert results["sources"]["d"]["losses"] == results["losses"]


def loss_of(loaded: LoadedModel, document: Document) -> float:
    batch = collate([Row(0, [document], {})], loaded.encoder.tokens_per_image, loaded.encoder.image_size)
    with torch.no_grad():
        return float(PackedJanus(loaded.janus.eval())(batch).total)


def test_answers_are_scored_by_source_and_group(
    loaded: LoadedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that always says "No": right for three of four second questions, and for none of the first ones."""
    no = loaded.encoder.ids(" No")
    monkeypatch.setattr(answers, "answer_ids", lambda janus, encoder, prompts, *rest: [no for _ in prompts])
    records = [*talks(), talk("<image>\nIs it blue?", "No.", image="red.png", sort="b"), talk("Hi", "no")]
    results = measure(loaded, write(folder / "d.jsonl", records), folder / "out", by="sort")
    everything, groups = results["answers"]["all"], results["answers"]["by_group"]
    assert (everything["exact"]["right"], everything["n"]) == (5, 10)
    assert everything["f1"]["mean"] == everything["exact"]["percent"] / 100 == 0.5
    assert {name: (scores["exact"]["right"], scores["n"]) for name, scores in groups.items()} == {
        "a": (3, 8),
        "b": (1, 1),
        "(none)": (1, 1),
    }
    assert results["tasks"]["num_without_by"] == 1 and "1 samples have no field 'sort'" in results["notes"]
    lines = read_lines(folder / "out/answers.jsonl")
    assert [line["group"] for line in lines[:3]] == ["a", "b", "(none)"], "one of each group first"
    assert lines[0]["question"] == "What colour?" and lines[0]["true"] == ["red."] and lines[0]["exact"] is False
    assert [len(line["images"]) for line in lines[:3]] == [1, 1, 0]
    assert Image.open(folder / "out" / lines[0]["images"][0]).size == (96, 96)


def test_captions_have_all_their_references(loaded: LoadedModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = loaded.encoder.ids("red card")
    monkeypatch.setattr(answers, "answer_ids", lambda janus, encoder, prompts, *rest: [said for _ in prompts])
    records = [
        {"image": "red.png", "caption": "red card"},
        {"image": "blue.png", "caption": "blue thing"},
        {"image": "red.png", "caption": "red card"},
    ]
    options = {"template": ("image_caption",), "num_prompts": 0}
    results = measure(loaded, write(folder / "d.jsonl", records), folder / "out", **options)
    scores = results["captions"]["all"]
    assert (scores["n"], scores["num_references"]) == (2, 3) and not results["answers"]
    assert scores["cider"]["mean"] == pytest.approx((10 * 2 / 4 + 0) / 2)  # 1-grams and 2-grams of four
    assert [line["true"] for line in read_lines(folder / "out/answers.jsonl")] == [["red card"] * 2, ["blue thing"]]


def test_numbers_are_bounded_and_said(loaded: LoadedModel, folder: Path) -> None:
    write(folder / "d.jsonl", [*FORMS["caption"], *FORMS["caption"]])
    options = {"num_samples": 5, "num_questions": 1, "num_prompts": 2}
    results = measure(loaded, folder / "d.jsonl", folder / "out", **options)
    assert results["sources"]["d, image_describe"]["num_read"] == 5
    assert (results["tasks"]["num_asked"], results["tasks"]["num_drawn"]) == (1, 2)
    notes = "\n".join(results["notes"])
    assert "d, image_describe: 5 of 8 samples were read, evenly spread (--num-samples)" in notes
    assert "1 of 4 questions were asked, evenly spread (--num-questions)" in notes
    assert "2 of 5 prompts were drawn, evenly spread (--num-prompts)" in notes


def test_results_do_not_depend_on_the_batches_and_an_earlier_evaluation_leaves_nothing(
    loaded: LoadedModel, folder: Path
) -> None:
    data, out = write(folder / "d.jsonl", FORMS["caption"]), folder / "out"
    first = measure(loaded, data, out, seed=3)
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = measure(loaded, data, out, seed=3, batch_size=1)
    for results in (first, again):
        del results["seconds"], results["manifest"]["options"]["batch_size"]
    assert first == again
    for path, content in files.items():
        assert path.name == "results.json" or path.read_bytes() == content, path
    assert [line["seed"] for line in read_lines(out / "images.jsonl")] == [3, 4, 5, 6]
    measure(loaded, data, out, num_prompts=1, num_questions=0)
    assert sorted(path.name for path in (out / FOLDER).iterdir()) == ["0000-true.png", "0000.png"]


def test_what_cannot_be_used_is_counted_and_named(loaded: LoadedModel, folder: Path) -> None:
    records = [
        "not json",
        talk("<image>\nWhat?", "Red.", image="nowhere.png"),
        "",
        talk("Hi", "no", colour=1)
        | {"conversations": [{"from": "human", "value": "Hi", "mood": 1}, {"from": "gpt", "value": "no"}]},
        talk("Hi"),
        *talks(),
    ]
    results = measure(loaded, write(folder / "d.jsonl", records), folder / "out")
    source = results["sources"]["d"]
    assert (source["num_read"], source["num_used"], source["num_unusable"]) == (8, 5, 3)
    assert source["not_used"] == {"fields 'conversations.mood'": 1}
    bad = read_lines(folder / "out/unusable.jsonl")
    assert [line["key"] for line in bad] == ["d.jsonl:1", "d.jsonl:2", "d.jsonl:5"]
    assert "is missing" in bad[1]["reason"] and "there is no answer to learn from" in bad[2]["reason"]
    notes = "\n".join(results["notes"])
    assert "d: 3 of 8 samples cannot be used (unusable.jsonl), the first is d.jsonl:1: its JSON cannot be read" in notes
    assert "d: not used: 1 field 'conversations.mood'" in notes


def recipe_of(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(f"name: r\nlicence: mine\n{text}", encoding="utf-8")
    return path


def test_of_a_recipe_the_held_out_samples_are_evaluated(loaded: LoadedModel, folder: Path) -> None:
    write(folder / "texts.jsonl", [{"text": f"Text number {number}."} for number in range(40)])
    write(folder / "talks.jsonl", talks())
    text = "{name: texts, kind: text, type: jsonl, template: text, weight: 1, paths: [texts.jsonl]"
    talk_source = "{name: talks, kind: understanding, type: jsonl, template: conversation, paths: [talks.jsonl]}"
    recipe = recipe_of(folder, f"sources: [{text}, held_out: 0.3}}]\nvalidation: [{talk_source}]\n")
    results = measure(loaded, recipe, folder / "out")
    sources = results["sources"]
    assert results["split"] == "held_out" and sources["talks"]["num_read"] == 4
    assert 5 < sources["texts"]["num_read"] < 20
    assert "the samples that it holds out, at most 1,000 of a source" in results["notes"][0]
    assert set(results["manifest"]["data_digests"]) == {"recipe", "texts", "validation/talks"}
    results = measure(loaded, recipe, folder / "out", split="all")
    assert results["split"] == "all" and results["sources"]["texts"]["num_read"] == 40
    assert "a model that was trained on it knows them" in results["notes"][0]
    recipe = recipe_of(folder, f"sources: [{text}}}]\n")
    assert measure(loaded, recipe, folder / "out")["split"] == "all"
    with pytest.raises(UserError, match=r"--split held_out: the recipe .*r\.yaml holds no samples out"):
        measure(loaded, recipe, folder / "out", split="held_out")


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        ("none.jsonl", {}, "none.jsonl: there is no such file"),
        ("none.yaml", {}, "there is no file"),
        ("empty.jsonl", {}, "empty.jsonl: the file is empty"),
        (".", {}, "name a recipe (.yaml) whose sources read it, or a file of JSON lines"),
        (
            "bad.jsonl",
            {},
            "bad.jsonl: none of its lines can be used, the first for this reason: its JSON cannot be read",
        ),
        ("d.jsonl", {"template": ("poem",)}, "--template: there is no template 'poem'"),
        (
            "d.jsonl",
            {"template": ("class_to_image",)},
            "none of its lines can be used, the first for this reason: field",
        ),
        ("d.jsonl", {"by": "colour"}, "--by colour: no sample has a field of this name"),
        ("d.jsonl", {"split": "all"}, "--split is for a recipe"),
        ("r.yaml", {"template": ("text",)}, "--template is for a file of JSON lines"),
        ("long.jsonl", {}, "long.jsonl: none of the 1 samples that were read can be used, the first is long.jsonl:1"),
    ],
)
def test_wrong_inputs_are_one_line(
    loaded: LoadedModel, folder: Path, monkeypatch: pytest.MonkeyPatch, data: str, options: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(folder)
    write(folder / "d.jsonl", talks())
    write(folder / "bad.jsonl", ["{", "[1]", "1"])
    write(folder / "long.jsonl", [talk("Hi", "no " * 20_000)])
    (folder / "empty.jsonl").write_text("\n")
    recipe_of(folder, "sources: [{name: t, kind: text, type: jsonl, template: text, weight: 1, paths: [d.jsonl]}]\n")
    with pytest.raises(UserError) as error:
        measure(loaded, Path(data), folder / "out", **options)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not (folder / "out").exists()


def test_images_are_scored_with_networks_of_the_users(
    loaded: LoadedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, clip = write(folder / "d.jsonl", FORMS["class_name"]), make_clip(folder / "clip")
    (folder / "net.pt").write_bytes(b"a network")
    compared = []

    def fid(true: Sequence[Image.Image], drawn: Sequence[Image.Image], weights: Path, device: str) -> Fid:
        compared.append((len(true), len(drawn), weights.name, device))
        return Fid(12.5, len(true), len(drawn), "how")

    monkeypatch.setattr(image_scores, "fid", fid)
    options = {"clip": str(clip), "inception": str(folder / "net.pt")}
    images = measure(loaded, data, folder / "out", **options)["images"]
    assert images["fid"] == {"value": 12.5, "how": "how"} and compared == [(4, 4, "net.pt", "cpu")]
    lines = read_lines(folder / "out/images.jsonl")
    assert images["clip"]["mean"] == pytest.approx(sum(line["clip"] for line in lines) / 4)
    assert images["clip"]["of_true_images"] == pytest.approx(sum(line["true_clip"] for line in lines) / 4)

    def fail(*_: Any) -> Fid:
        raise UserError("no torchmetrics")

    monkeypatch.setattr(image_scores, "fid", fail)
    results = measure(loaded, data, folder / "out", **options)
    assert "the FID was not computed: no torchmetrics" in results["notes"] and "clip" in results["images"]


@pytest.mark.parametrize(("option", "says"), [("clip", "there is no such folder"), ("inception", "no such file")])
def test_networks_that_are_missing_are_named_at_once(option: str, says: str) -> None:
    with pytest.raises(UserError, match=rf"^--{option} nowhere: .*{says}"):
        OwnDataOptions(data="d.jsonl", **{option: "nowhere"}).check()  # type: ignore[arg-type]


def test_the_command_prints_tables_and_writes_the_page(run: Run, random_base: Path, folder: Path) -> None:
    records = [*FORMS["conversation"], "broken", talk("Hi [bold]there", "<b>no</b>", image=[])]
    write(folder / "talks.jsonl", records)
    write(folder / "cards.jsonl", FORMS["caption"])
    sources = [
        ("talks", "understanding", "conversation"),
        ("cards", "understanding", "image_caption"),
        ("cards", "generation", "text_to_image"),
    ]
    lines = [
        f"  - {{name: {name}_{number}, kind: {kind}, type: jsonl, template: {template}, weight: 1, paths: [{name}.jsonl]}}"
        for number, (name, kind, template) in enumerate(sources)
    ]
    recipe = recipe_of(folder, "sources:\n" + "\n".join(lines) + "\n")
    words = ("--max-answer-tokens", 16, "--guidance", 1, "--by", "sort", "--num-prompts", 2)
    code, stdout, stderr = run("evaluate", random_base, recipe, "--out", folder / "out", *words)
    assert code == 0, stderr
    for says in ("Losses", "Answers", "Captions", "Images", "talks_0", "sort: a", "exact %", "CIDEr-D"):
        assert says in stdout
    assert "talks_0: 1 of 6 samples cannot be used (unusable.jsonl)" in " ".join(stdout.split())
    assert stdout.endswith(f"results: {folder / 'out/results.json'}\npage: {folder / 'out/report.html'}\n")
    assert "draw: 2 of 2" in stderr and "answer: 13 of 13" in stderr
    page = Page((folder / "out/report.html").read_text(encoding="utf-8"))
    for says in ("What colour?", "red card", "true: <b>no</b>", "cards_1", "all its samples were evaluated"):
        assert says in page.text, says
    ids = {attributes["id"] for tag, attributes in page.tags if tag == "section"}
    assert ids == {"own-data", "losses", "scores", "answers", "captions", "images", "origin"}
    assert {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"} == ids
    assert "no image" not in page.text
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 8 + 4 + 2 * 2 and all(image["alt"] for image in images)
