"""A benchmark from files to results: resumed, refused, and the same in any batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from janus_train.evaluate.benchmarks import run as running
from janus_train.evaluate.benchmarks.registry import get_tasks
from janus_train.evaluate.benchmarks.run import BenchmarkOptions, warnings
from janus_train.infer.load import load_model
from tests.evaluate.benchmarks.making import pope_rows, protocol_file, short_protocol, write_all, write_tsv
from tests.helpers import Run, read_lines
from tests.train.test_run_lock import held

ALL = "pope,mme,mmbench,mmbench_circular,seed,mmmu,gqa,mmvet"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_tsv(tmp_path / "data" / "POPE.tsv", pope_rows())
    return tmp_path / "data"


@pytest.fixture
def protocol(tmp_path: Path) -> Path:
    return protocol_file(tmp_path / "short.yaml")


def words(model: Path, data: Path, protocol: Path, out: Path, *more: object, tasks: str = "pope") -> list[object]:
    return ["benchmark", model, "--tasks", tasks, "--data", data, "--protocol", protocol, "--out", out, *more]


def read_results(out: Path) -> dict[str, dict]:
    return json.loads((out / "results.json").read_text())["tasks"]


def test_a_benchmark_writes_answers_results_and_manifest(
    run: Run, random_base: Path, data: Path, protocol: Path, tmp_path: Path
) -> None:
    code, stdout, stderr = run(*words(random_base, data, protocol, tmp_path / "out"))
    assert code == 0, stderr
    lines = read_lines(tmp_path / "out/pope/answers.jsonl")
    assert [line["key"] for line in lines] == list("012345")
    assert lines[3]["splits"] == ["random", "popular"]
    results = read_results(tmp_path / "out")["pope"]
    assert results == json.loads((tmp_path / "out/pope/results.json").read_text())
    manifest = results["manifest"]
    assert manifest["num_samples"] == 6 and len(manifest["weights_digest"]) == 64
    assert manifest["roles"] == ["User", "Assistant"] and manifest["system_prompt"] == ""
    assert list(manifest["data"]) == [str(data / "POPE.tsv")]
    assert results["num_unparsed"] == sum(line["answer"].lower() not in ("yes", "no") for line in lines)
    assert "87.0" in stdout and "86.2" in stdout and "Janus-Pro technical report" in stdout
    assert "warning" not in stderr
    assert not (tmp_path / "out/.lock").exists()


def test_the_tiny_model_goes_through_every_task(run: Run, random_base: Path, protocol: Path, tmp_path: Path) -> None:
    write_all(tmp_path / "data")
    code, stdout, stderr = run(*words(random_base, tmp_path / "data", protocol, tmp_path / "out", tasks=ALL))
    assert code == 0, stderr
    results = read_results(tmp_path / "out")
    assert list(results) == ALL.split(",")
    assert {name: result["manifest"]["num_samples"] for name, result in results.items()} == {
        "pope": 4,
        "mme": 28,
        "mmbench": 1,
        "mmbench_circular": 2,
        "seed": 2,
        "mmmu": 2,
        "gqa": 1,
        "mmvet": 1,
    }
    assert {name for name, result in results.items() if result["headline"] is None} == {"mmvet"}
    assert "step by step" in results["mmvet"]["manifest"]["system_prompt"]
    assert list(json.loads((tmp_path / "out/mmvet/mm-vet.json").read_text())) == ["v1_0"]
    assert stderr.count("warning: gqa: these prompts are not the papers'") == 1
    for title in ("POPE", "MME", "SEED-Bench, images", "MMMU validation", "GQA test-dev", "MM-Vet"):
        assert title in stdout


def test_an_interrupted_run_goes_on_and_equals_one_in_another_batch(
    run: Run, random_base: Path, data: Path, protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = (words(random_base, data, protocol, tmp_path / name) for name in ("whole", "out"))
    assert run(*whole, "--batch-size", 3)[0] == 0
    append, num_appended = running.AnswerFile.append, []

    def fail_at_the_second(self, lines):
        if num_appended:
            raise KeyboardInterrupt
        num_appended.append(len(lines))
        append(self, lines)

    with monkeypatch.context() as patch:
        patch.setattr(running.AnswerFile, "append", fail_at_the_second)
        assert run(*out, "--batch-size", 2)[0] == 130
    with (tmp_path / "out/pope/answers.jsonl").open("a") as file:
        file.write('{"key": "2", "ans')  # what a kill leaves
    asked: list[int] = []
    answer = running._answer
    monkeypatch.setattr(
        running,
        "_answer",
        lambda task, context, share, *more: (asked.extend(share), answer(task, context, share, *more)),
    )
    assert run(*out, "--batch-size", 2)[0] == 0
    assert asked == [2, 3, 4, 5]
    for name in ("answers.jsonl", "results.json"):
        assert (tmp_path / "out/pope" / name).read_text() == (tmp_path / "whole/pope" / name).read_text()
    asked.clear()
    assert run(*out)[0] == 0 and asked == []  # everything is answered: it is scored again


def test_sampled_answers_are_the_same_in_any_batch(run: Run, random_base: Path, data: Path, tmp_path: Path) -> None:
    decoding = {**short_protocol().decoding.model_dump(), "temperature": 1.5, "top_p": 0.9}
    sampled = protocol_file(tmp_path / "sampled.yaml", decoding=decoding)
    texts = []
    for name, more in (("a", ("--batch-size", 4)), ("b", ("--batch-size", 1)), ("c", ("--seed", 1))):
        assert run(*words(random_base, data, sampled, tmp_path / name, *more))[0] == 0
        texts.append((tmp_path / name / "pope/answers.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2]


@pytest.fixture
def begun(run: Run, random_base: Path, data: Path, protocol: Path, tmp_path: Path) -> Path:
    assert run(*words(random_base, data, protocol, tmp_path / "out"))[0] == 0
    return tmp_path / "out"


def test_another_protocol_data_seed_limit_or_precision_is_refused(
    run: Run, random_base: Path, data: Path, protocol: Path, tmp_path: Path, begun: Path
) -> None:
    def refusal(data: Path, protocol: Path, *more: object) -> str:
        before = (begun / "pope/answers.jsonl").read_text()
        code, _, stderr = run(*words(random_base, data, protocol, begun, *more))
        assert code == 2 and (begun / "pope/answers.jsonl").read_text() == before
        return stderr

    assert refusal(data, protocol_file(tmp_path / "other.yaml", system="Look.")) == (
        f"error: {begun / 'pope'} was begun with another protocol: give another --out, or delete that folder\n"
    )
    changed = tmp_path / "changed"
    write_tsv(changed / "POPE.tsv", [row | {"answer": "No"} for row in pope_rows()])
    assert "was begun with another data:" in refusal(changed, protocol)
    assert "was begun with another seed:" in refusal(data, protocol, "--seed", 1)
    assert "was begun with another limit:" in refusal(data, protocol, "--limit", 2)
    assert "was begun with another precision:" in refusal(data, protocol, "--precision", "bf16")


def test_another_model_is_refused_and_the_same_one_elsewhere_is_not(
    run: Run, random_base: Path, data: Path, protocol: Path, tmp_path: Path, begun: Path
) -> None:
    for name, factor in (("same", 1.0), ("other", 1.5)):
        loaded = load_model(random_base)
        loaded.janus.lm_head.weight.data.mul_(factor)
        loaded.janus.save_pretrained(tmp_path / name)
        loaded.encoder.tokenizer.save_pretrained(tmp_path / name)
    moved = data.rename(tmp_path / "moved")
    assert run(*words(tmp_path / "same", moved, protocol, begun))[0] == 0
    code, _, stderr = run(*words(tmp_path / "other", moved, protocol, begun))
    assert code == 2 and "was begun with another model:" in stderr


def test_a_limit_is_a_warning_and_stands_in_the_results(
    run: Run, random_base: Path, data: Path, protocol: Path, tmp_path: Path
) -> None:
    code, _, stderr = run(*words(random_base, data, protocol, tmp_path / "out", "--limit", 2))
    assert code == 0 and "warning: pope: only the first 2 samples were answered" in stderr
    results = read_results(tmp_path / "out")["pope"]
    assert (results["manifest"]["num_samples"], results["manifest"]["limit"]) == (2, 2)
    assert len(read_lines(tmp_path / "out/pope/answers.jsonl")) == 2


def test_a_model_without_tokens_for_the_roles_is_a_warning(random_base: Path) -> None:
    loaded = load_model(random_base)
    [pope] = get_tasks("pope")

    pro = short_protocol("pro", not_original={})
    assert warnings(pope, pro.style("pope"), pro, loaded, BenchmarkOptions()) == []
    loaded.encoder.speakers = ("User", "Assistant")
    assert warnings(pope, pro.style("pope"), pro, loaded, BenchmarkOptions()) == [
        "pope: this model has no token <|User|>: it reads the word User",
        "pope: this model has no token <|Assistant|>: it reads the word Assistant",
    ]
    own = short_protocol(user=None, assistant=None)
    assert warnings(pope, own.style("pope"), own, loaded, BenchmarkOptions()) == []


def test_a_folder_in_use_is_refused(run: Run, random_base: Path, data: Path, protocol: Path, tmp_path: Path) -> None:
    with held(tmp_path / "out"):
        code, _, stderr = run(*words(random_base, data, protocol, tmp_path / "out"))
    assert code == 2 and f"--out {tmp_path / 'out'} is in use by a run on host" in stderr


def test_mistakes_are_one_line_before_a_model_is_loaded(run: Run, data: Path, protocol: Path, tmp_path: Path) -> None:
    none = tmp_path / "no_model"

    def error(*more: object, tasks: str = "pope", data: Path = data, protocol: object = protocol) -> str:
        code, _, stderr = run(
            "benchmark", none, "--tasks", tasks, "--data", data, "--protocol", protocol, "--out", tmp_path / "o", *more
        )
        assert code == 2 and stderr.count("\n") == 1, stderr
        assert not (tmp_path / "o").exists()
        return stderr

    assert "there is no task 'vqa'" in error(tasks="vqa")
    assert "has no data of mme: none of MME.tsv, mme/*.tsv, mme/*.parquet, mme/data/test*.parquet is there" in error(
        tasks="pope,mme"
    )
    assert "--protocol official: there is none" in error(protocol="official")
    assert "there is no folder" in error()  # the model


def test_a_broken_image_ends_the_run_in_one_line_and_what_was_answered_stays(
    run: Run, random_base: Path, data: Path, protocol: Path, tmp_path: Path
) -> None:
    rows = pope_rows(4)
    rows[2]["image"] = "QUJD" * 40
    write_tsv(data / "POPE.tsv", rows)
    code, _, stderr = run(*words(random_base, data, protocol, tmp_path / "out", "--batch-size", 1))
    assert code == 2 and "POPE.tsv: row 4: the image is not an image of the formats" in stderr
    assert [line["key"] for line in read_lines(tmp_path / "out/pope/answers.jsonl")] == ["0", "1"]
