"""The same input gives the same bytes: on any number of processes, after any kill; nothing half made is taken for whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import webdataset

from janus_train import cli
from janus_train.data.shards.index import index_path
from janus_train.data.sources.shards import ShardSource
from janus_train.datatools.prepare import output, run, workers
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.output import Totals
from janus_train.errors import UserError
from tests.datatools.prepare.making import (
    contents,
    fields,
    image_bytes,
    make,
    samples,
    skipped,
    tar_bytes,
    write,
    write_tar,
)


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """60 captioned images, two captions each, of which three are bad; in units of 7 records."""
    monkeypatch.setattr("janus_train.datatools.prepare.items.UNIT_RECORDS", 7)
    records = []
    for number in range(60):
        name = f"{number:03d}.jpg"
        content = b"no image" if number in (0, 30, 59) else image_bytes(number)
        write(tmp_path / "raw" / name, content)
        records.append({"image": name, "caption": [f"a caption of {number}", f"another of {number}"]})
    return write(tmp_path / "raw/captions.jsonl", records)


OPTIONS = {"captions": "each", "shard_size": 20_480, "max_bad": 0.1}


def test_shards_of_the_asked_size(raw, tmp_path):
    result = make("captions", raw, out=tmp_path / "out", **OPTIONS)
    tars = sorted((tmp_path / "out").glob("*.tar"))
    assert result["shards"] == len(tars) > 8
    assert [path.name for path in tars] == [f"shard-{n:05d}.tar" for n in range(len(tars))]
    assert all(path.stat().st_size <= 20_480 for path in tars)
    assert result["bytes"] == sum(path.stat().st_size for path in tars)
    assert result["samples"] == 57 * 2 == len(samples(tmp_path / "out"))
    assert result["skipped"] == {"the image does not open": 3}
    assert [record["where"] for record in skipped(tmp_path / "out")] == [f"{raw}:{line}" for line in (1, 31, 60)]
    source = ShardSource(tars)
    assert len(source) == result["samples"]
    assert source[113].fields == {"caption": "another of 58"}
    listing = json.loads((tmp_path / "out/shards.json").read_text())
    assert len(listing["shards"]) == len(tars)
    assert not (tmp_path / "out/.prepare").exists()


def test_so_many_samples_a_shard(raw, tmp_path):
    make("captions", raw, out=tmp_path / "out", captions="each", shard_samples=11, max_bad=0.1)
    sizes = [len(ShardSource([path])) for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert sizes == [11] * 10 + [4]


def test_a_sample_larger_than_a_shard_has_one_of_its_own(raw, tmp_path):
    result = make("captions", raw, out=tmp_path / "out", shard_size=1, max_bad=0.1)
    assert result["shards"] == result["samples"] == 57


def test_headers_say_nothing_of_when_and_who(raw, tmp_path):
    import tarfile

    make("captions", raw, out=tmp_path / "out", **OPTIONS)
    for path in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                facts = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode)
                assert facts == (0, 0, 0, "", "", 0o644)


def test_webdataset_reads_the_shards_back(tmp_path):
    """Each sample as one, its members in their order also where there are more than ten."""
    for number in range(12):
        write(tmp_path / f"raw/{number}.jpg", image_bytes(number))
    turns = [{"from": "human", "value": "Which one?"}, {"from": "gpt", "value": "The last."}]
    records = [
        {"id": "many", "image": [f"{number}.jpg" for number in range(12)], "conversations": turns},
        {"id": "one", "image": "3.jpg", "conversations": turns},
        {"id": "none", "conversations": turns},
    ]
    make("conversations", write(tmp_path / "raw/x.jsonl", records), out=tmp_path / "out")
    sample_a, sample_b, sample_c = webdataset.WebDataset(str(tmp_path / "out/shard-00000.tar"), shardshuffle=False)
    assert [sample["__key__"] for sample in (sample_a, sample_b, sample_c)] == [
        "000000000-many",
        "000000001-one",
        "000000002",
    ]
    assert [name for name in sample_a if name[0] != "_"] == ["json", *(f"{number}.jpg" for number in range(12))]
    assert [sample_a[f"{number}.jpg"] for number in range(12)] == [image_bytes(number) for number in range(12)]
    assert sample_b["jpg"] == image_bytes(3) and [name for name in sample_b if name[0] != "_"] == ["json", "jpg"]
    assert [turn["content"] for turn in json.loads(sample_c["json"])["conversations"]] == ["Which one?", "The last."]


def test_any_number_of_processes_gives_the_same_bytes(tmp_path):
    for file in range(3):
        texts = [{"text": f"text {number}" if number != 700 else ""} for number in range(1400)]
        write(tmp_path / f"texts/{file}.jsonl", texts)
    options = {"shard_samples": 999, "max_bad": 0.1}
    result = make("text", tmp_path / "texts", out=tmp_path / "one", **options)
    assert (result["samples"], result["shards"], result["skipped"]) == (4197, 5, {"the text is missing or empty": 3})
    make("text", tmp_path / "texts", out=tmp_path / "three", workers=3, **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


class Killed(BaseException):
    """Ends a run without its knowing, like kill -9 (but for what was not written yet)."""


@pytest.mark.parametrize("at", ["fsync", "replace", "sync", "write_json", "write_index"])
def test_stopped_at_every_step_it_goes_on_to_the_same_bytes(raw, tmp_path, monkeypatch, at):
    """Stopped at the first call of a step, then at the second, ...; each time the same command goes on."""
    make("captions", raw, out=tmp_path / "whole", **OPTIONS)
    module = workers if at == "write_index" else os if at in ("fsync", "replace") else output
    stops = 0
    for stop in range(1, 12):
        calls_left = [stop]

        def stop_at(function, calls_left=calls_left):
            def call(*arguments, **options):
                calls_left[0] -= 1
                if calls_left[0] == 0:
                    raise Killed
                return function(*arguments, **options)

            return call

        with monkeypatch.context() as patches:
            patches.setattr(module, at, stop_at(getattr(module, at)))
            patches.setattr(output.Output, "__exit__", lambda self, *error: self._lock.close())  # no tidying up
            try:
                make("captions", raw, out=tmp_path / "out", **OPTIONS)
            except Killed:
                stops += 1
    assert stops > 5
    make("captions", raw, out=tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_whole_shards_are_kept_and_half_ones_made_again(raw, tmp_path, monkeypatch):
    make("captions", raw, out=tmp_path / "whole", **OPTIONS)
    with pytest.raises(UserError, match="more than"):  # it stops at the second bad record
        make("captions", raw, out=tmp_path / "out", **OPTIONS | {"max_bad": 0.02})
    tars = sorted((tmp_path / "out").glob("*.tar"))
    assert 3 < len(tars) < 12
    assert [path.name for path in (tmp_path / "out").glob(".shard*")] == []
    mtime_ns = tars[0].stat().st_mtime_ns
    index_path(tars[2]).unlink()
    tars[-1].write_bytes(tars[-1].read_bytes()[:-512])
    write(tmp_path / "out/.shard-999.part", b"half")
    make("captions", raw, out=tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert tars[0].stat().st_mtime_ns == mtime_ns, "what was whole was not written again"


def test_a_finished_folder_is_left_alone(raw, tmp_path):
    first_result = make("captions", raw, out=tmp_path / "out", **OPTIONS)
    state_before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert make("captions", raw, out=tmp_path / "out", **OPTIONS | {"max_bad": 0.5}, workers=2) == first_result
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == state_before


def test_other_options_or_another_input_are_refused(raw, tmp_path):
    make("captions", raw, out=tmp_path / "out", **OPTIONS)
    state_before = contents(tmp_path / "out")
    with pytest.raises(UserError, match=r"other options \(max_side None then, 20 now\)"):
        make("captions", raw, out=tmp_path / "out", max_side=20, **OPTIONS)
    write(raw.parent / "003.jpg", image_bytes(3, size=(40, 40)))
    with pytest.raises(UserError, match="the input has changed since"):
        make("captions", raw, out=tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == state_before


def test_the_same_while_it_is_half_made(raw, tmp_path):
    with pytest.raises(UserError, match="more than"):
        make("captions", raw, out=tmp_path / "out", **OPTIONS | {"max_bad": 0.02})
    with pytest.raises(UserError, match="other options"):
        make("captions", raw, out=tmp_path / "out", captions="first", max_bad=0.1)


def test_a_folder_of_somebody_else_is_refused(raw, tmp_path):
    write(tmp_path / "out/thesis.txt", "x")
    with pytest.raises(UserError, match="is not empty and was not made by prepare"):
        make("captions", raw, out=tmp_path / "out", **OPTIONS)
    with pytest.raises(UserError, match="is a file"):
        make("captions", raw, out=tmp_path / "out/thesis.txt", **OPTIONS)
    assert contents(tmp_path / "out") == {"thesis.txt": b"x"}


def test_two_at_once_are_refused(raw, tmp_path):
    options = PrepareOptions("captions", (str(raw),), captions="each")
    with output.Output(tmp_path / "out", options, "x"), pytest.raises(UserError, match="another prepare is writing"):
        output.Output(tmp_path / "out", options, "x").__enter__()


def test_too_many_bad_ones(raw, tmp_path):
    with pytest.raises(UserError, match=r"of 60 records cannot be used, more than 0\.01 of them: .*skipped\.jsonl"):
        make("captions", raw, out=tmp_path / "out", **OPTIONS | {"max_bad": 0.01})
    assert skipped(tmp_path / "out")[0]["reason"] == "the image does not open"
    assert not (tmp_path / "out/prepared.json").exists()


def test_nothing_to_prepare(tmp_path):
    with pytest.raises(UserError, match="contains no record"):
        make("text", write(tmp_path / "x.jsonl", "\n"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="1 records gave no sample"):
        make("text", write(tmp_path / "y.jsonl", [{"text": ""}]), out=tmp_path / "out", drop_empty=True)


def test_missing_images(tmp_path):
    records = [{"image": f"{n}.jpg", "caption": "x"} for n in range(300)]
    file = write(tmp_path / "x.jsonl", records)
    with pytest.raises(UserError, match=r"none of the first 100 images exists, such as .*0\.jpg: --images"):
        make("captions", file, out=tmp_path / "out")
    for number in range(298):
        write(tmp_path / f"{number}.jpg", image_bytes(number))
    result = make("captions", file, out=tmp_path / "out", max_bad=0.01)
    assert result["skipped"] == {"the image is missing": 2}


def test_addresses_and_paths_that_leave_are_refused_before_anything_is_written(tmp_path):
    write(tmp_path / "raw/1.jpg", image_bytes(1))
    for name, says in [
        ("http://example.invalid/1.jpg", r"x\.jsonl:2: .*download"),
        ("../2.jpg", r"x\.jsonl:2: .*leaves"),
    ]:
        file = write(tmp_path / "raw/x.jsonl", [{"image": image, "caption": "x"} for image in ("1.jpg", name)])
        for format_ in ("captions", "conversations"):
            with pytest.raises(UserError, match=says):
                make(format_, file, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line(raw, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patches:
        patches.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="the disk is full: the same command resumes"):
            make("captions", raw, out=tmp_path / "out", **OPTIONS)
    make("captions", raw, out=tmp_path / "out", **OPTIONS)
    assert len(fields(tmp_path / "out")) == 114


def test_progress_counts_every_record(raw, tmp_path):
    calls = []

    def report(totals: Totals, records: int):
        calls.append((totals.records, records))

    options = PrepareOptions("captions", (str(raw),), captions="each", shard_size=20_480)
    run.prepare(options, tmp_path / "out", 1, 0.1, report)
    assert calls[0] == (0, 60)
    assert calls[-1] == (60, 60)


# ------------------------------------------------------------------------------------------------------- real processes


def start(*words, **options):
    command = [sys.executable, "-m", "janus_train.cli", "prepare", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def run_to_end(*words):
    """(exit code, standard output, standard error) of the command."""
    process = start(*words)
    out, error = process.communicate(timeout=300)
    return process.returncode, out, error


def test_killed_for_good_it_goes_on_to_the_same_bytes(tmp_path, monkeypatch, capsys):
    """SIGKILL while three processes work; none of them outlives the first."""
    members = {}
    for number in range(600):
        members[f"{number}.png"] = image_bytes(number, "PNG", size=(64, 64))
        members[f"{number}.txt"] = f"caption {number}"
    tar = write_tar(tmp_path / "raw.tar", members)
    words = ["webdataset", tar, "--shard-size", "200kB"]
    process = start(*words, "--out", tmp_path / "out", "--workers", 2, start_new_session=True)
    while not list((tmp_path / "out").glob("shard-00001.tar.index*")) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    assert process.returncode == -signal.SIGKILL, "it was still at work"
    assert not (tmp_path / "out/prepared.json").exists()
    for _ in range(600):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("a worker outlived the process that started it")
    monkeypatch.setattr(sys, "argv", ["janus-train", "prepare", *map(str, words), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.startswith("600 samples, ")
    make("webdataset", tar, out=tmp_path / "whole", shard_size=200_000)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_dead_worker_is_one_line(tmp_path):
    """As when the system is out of memory; the same command then goes on."""
    file = write(tmp_path / "x.jsonl", [{"text": f"text {number} " * 20} for number in range(20_000)])
    words = ["text", file, "--shard-samples", 1000, "--out", tmp_path / "out", "--workers", 2]
    process, stopped_pid = start(*words), None
    while process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        worker_pids = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        if len(worker_pids) == 2 and stopped_pid is None:
            stopped_pid = worker_pids[0]
            os.kill(stopped_pid, signal.SIGSTOP)  # so that it is not done before it dies
        if stopped_pid and list((tmp_path / "out").glob("*.tar")):
            os.kill(stopped_pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    output, error = process.communicate(timeout=300)
    assert (process.returncode, output) == (2, ""), error
    assert error.splitlines()[-1].startswith("error: a worker process died")
    assert "Traceback" not in error
    result = make("text", file, out=tmp_path / "out", shard_samples=1000)
    assert (result["samples"], result["shards"]) == (20_000, 20)


MISTAKES = [
    (["webdataset", "1.tar"], "--out is missing"),
    (["nonsense", "1.tar", "--out", "out"], "nonsense"),
    (["webdataset", "2.tar", "--out", "out"], "2.tar: there is no such file or folder"),
    (["webdataset", "x/*.tar", "--out", "out"], "nothing is at x/*.tar"),
    (["webdataset", "1.tar", "1.tar", "--out", "out"], "1.tar is named twice"),
    (["text", "1.tar", "--out", "out"], "is not a file of texts"),
    (["text", ".", "--out", "out"], "folder . contains no file of texts"),
    (["hf", "1.tar", "--out", "out"], "there is no such folder"),
    (["hf", ".", "--out", "out"], "is not a data set that save_to_disk wrote"),
    (["captions", "1.tar", "--images", "nowhere", "--out", "out"], "is not a file of records"),
    (["webdataset", "1.tar", "--out", "out", "--images", "."], "--images has no effect"),
    (["webdataset", "1.tar", "--out", "out", "--shard-size", "big"], "'big' is not a size"),
    (["webdataset", "1.tar", "--out", "out", "--max-bad", "2"], "--max-bad"),
    (["text", "1.tar", "--index-only"], "--index-only is for webdataset"),
    (["webdataset", "1.tar", "--index-only", "--out", "out"], "--out has no effect with --index-only"),
    (["webdataset", "1.tar", "--index-only", "--form", "draw"], "leave the other options out"),
    (["webdataset", "1.tar", "--index-only", "--workers", "2"], "leave the other options out"),
    (["webdataset", "1.tar", "--index-only", "--max-bad", "0.5"], "leave the other options out"),
    (["webdataset", "1.tar", "--class-names", "all", "--out", "out"], "--class-names has no effect without --classes"),
]


@pytest.mark.parametrize(("words", "says"), MISTAKES)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "1.tar", tar_bytes({"1.txt": "x"}))
    monkeypatch.setattr(sys, "argv", ["janus-train", "prepare", *words])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    output = capsys.readouterr()
    assert (exit_info.value.code, output.out) == (2, "")
    assert output.err.startswith("error: ")
    assert says in output.err
    assert output.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["1.tar"]


def test_index_only(tmp_path):
    tar = write_tar(tmp_path / "1.tar", {"1.jpg": image_bytes(1), "1.json": {"caption": "x"}})
    code, output, error = run_to_end("webdataset", tar, "--index-only")
    assert (code, output, error) == (0, f"{index_path(tar)}\n", "")
    assert ShardSource([tar])[0].fields == {"caption": "x"}
    assert (tmp_path / "shards.json").exists()
