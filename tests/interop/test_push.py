"""export --push-to-hub against a hub on this machine: the files arrive whole, load again, and every error is one line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import save_file

from janus_train.interop import push
from janus_train.interop.convert import export_model
from janus_train.interop.push import HubTarget
from janus_train.paths import ROOT
from tests.interop.conftest import stored
from tests.interop.hub_server import TOKEN, Hub, Repository

COMMAND = [sys.executable, "-m", "janus_train.cli"]
WITHOUT_XET = {"HF_HUB_DISABLE_XET": "1"}
"""The stand-in has LFS alone; with hf_xet installed, huggingface_hub asks for nothing else unless told so."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub().serve() as hub:
        yield hub


@pytest.fixture(scope="module")
def exported(random_base, tmp_path_factory) -> Path:
    """A folder that export wrote."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_model(str(random_base), folder, "hf")
    return folder


@pytest.fixture
def here(hub, tmp_path, monkeypatch) -> Hub:
    """The hub for this process."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "no_tokens"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(hub: Hub, home: Path, *words: object, **more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **hub.environment(home), **WITHOUT_XET, **more}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*COMMAND, *map(str, words)], cwd=ROOT, env=environment, text=True, **pipes)


def test_what_is_pushed_is_the_export_and_loads_from_the_hub(hub, random_base, tmp_path) -> None:
    words = ["export", random_base, "--out", tmp_path / "out", "--push-to-hub", "me/janus", "--private"]
    pushed = command(hub, tmp_path / "home", *words, "--license", "mit", "--commit-message", "the first one")
    output, errors = pushed.communicate()
    assert pushed.returncode == 0 and not errors, errors
    assert hub.files("me/janus") == contents(tmp_path / "out")
    repository = hub.repositories["model", "me/janus"]
    assert repository.private and repository.branches["main"][-1].message == "the first one"
    assert output.split() == [
        str(tmp_path / "out"),
        f"{hub.address}/me/janus/commit/{repository.branches['main'][-1].sha}",
    ]
    assert any(request.startswith("PUT /large/") for request in hub.requests), "the weights go by LFS"
    assert b"license: mit" in hub.files("me/janus")["README.md"]

    code = (
        "import sys, janus_train; print(janus_train.load_model(sys.argv[1]).janus.lm_head.weight.double().sum().item())"
    )
    environment = {**os.environ, **hub.environment(tmp_path / "home")}
    loaded = subprocess.run(
        [sys.executable, "-c", code, "me/janus"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert loaded.returncode == 0, loaded.stderr
    assert float(loaded.stdout) == stored(tmp_path / "out")["lm_head.weight"].double().sum().item()
    assert (tmp_path / "home/hub/models--me--janus").is_dir()


def test_a_hub_that_takes_all_files_with_the_commit_needs_neither_lfs_nor_xet(here, exported, monkeypatch, run) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    here.large_files = re.compile("(?!)")
    code, _, errors = run("export", exported, "--push-to-hub", "me/janus")
    assert code == 0 and not errors
    assert here.files("me/janus") == contents(exported)
    assert not here.large and not any("xet" in request for request in here.requests)


def test_an_interrupted_upload_says_how_to_repeat_it(hub, exported, tmp_path) -> None:
    hub.hanging = re.compile("PUT /large/")
    pushing = command(hub, tmp_path, "export", exported, "--push-to-hub", "me/janus", "--revision", "new")
    assert hub.reached.wait(60)
    pushing.send_signal(signal.SIGINT)
    hub.hanging = None
    hub.released.set()
    _, errors = pushing.communicate(timeout=60)
    again = f"janus-train export {exported} --push-to-hub me/janus --revision new"
    assert pushing.returncode == 130, errors
    assert errors == f"the upload was interrupted; {exported} is whole, to upload it again: {again}\n"
    assert hub.files("me/janus", "new") == {}
    repeated = command(hub, tmp_path, *again.split()[1:])
    assert repeated.communicate()[1] == "" and hub.files("me/janus", "new") == contents(exported)


def test_a_branch_is_made_and_the_other_stays(here, exported, run) -> None:
    assert run("export", exported, "--push-to-hub", "me/janus", "--revision", "v2")[0] == 0
    assert here.files("me/janus", "v2") == contents(exported) and here.files("me/janus") == {}


def test_what_an_earlier_upload_left_does_not_load_beside_the_new_weights(here, exported) -> None:
    repository = Repository(private=False)
    old = {"model-00001-of-00002.safetensors": b"1", "model.safetensors.index.json": b"{}", "notes.md": b"mine"}
    repository.branches["main"][-1].files.update(old)
    here.repositories["model", "me/janus"] = repository
    push.push(exported, HubTarget("me/janus"))
    assert here.files("me/janus") == contents(exported) | {"notes.md": b"mine"}
    number = len(repository.branches["main"])
    push.push(exported, HubTarget("me/janus"))
    assert len(repository.branches["main"]) <= number + 1 and here.files("me/janus")["notes.md"] == b"mine"


def test_without_out_nothing_stays_here(here, random_base, tmp_path, monkeypatch, run) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run("export", random_base, "--format", "official", "--push-to-hub", "me/official")[0] == 0
    assert b"MultiModalityCausalLM" in here.files("me/official")["config.json"]
    here.failures = {"POST .*/commit/": 400}
    code, _, errors = run("export", random_base, "--push-to-hub", "me/janus")
    assert code == 2 and errors.endswith("; nothing is left here, run the command again\n")
    assert not list(tmp_path.glob("janus-train-export-*"))


def test_an_exported_folder_goes_as_it_is_with_its_edited_card(here, exported, tmp_path, run) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "edited"))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nMy own words.\n")
    assert run("export", folder, "--push-to-hub", "me/janus")[0] == 0
    assert here.files("me/janus") == contents(folder)
    code, _, errors = run("export", folder, "--push-to-hub", "me/janus", "--license", "mit")
    assert code == 2 and "has one already: write license: into its README.md" in errors
    assert run("export", folder, "--push-to-hub", "me/official", "--format", "official")[0] == 0
    assert b"My own words" not in here.files("me/official")["README.md"]
    weights = stored(folder)
    save_file(
        {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}, folder / "model.safetensors"
    )
    code, _, errors = run("export", folder, "--push-to-hub", "me/other")
    assert code == 2 and "is not complete" in errors and ("model", "me/other") not in here.repositories


def failing(hub: Hub, pattern: str, status: int) -> None:
    hub.failures = {pattern: status}


ERRORS = {
    "no token": (
        lambda hub, patch: patch.delenv("HF_TOKEN"),
        "me/janus",
        "there is no token: run hf auth login, or set HF_TOKEN",
    ),
    "a wrong token": (
        lambda hub, patch: patch.setenv("HF_TOKEN", "hf_wrong"),
        "me/janus",
        "the hub does not accept the token (401): log in again with hf auth login, or set HF_TOKEN to a valid one",
    ),
    "another's namespace": (
        lambda hub, patch: None,
        "you/janus",
        "the token may not write there (403): it needs the permission to write to you's repositories",
    ),
    "no network": (
        lambda hub, patch: patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9"),
        "me/janus",
        "the hub at http://127.0.0.1:9 cannot be reached",
    ),
    "offline": (
        lambda hub, patch: patch.setattr(constants, "HF_HUB_OFFLINE", True),
        "me/janus",
        "HF_HUB_OFFLINE is set, which forbids uploads",
    ),
    "a data set's name": (
        lambda hub, patch: hub.repositories.update({("dataset", "me/janus"): Repository(False)}),
        "me/janus",
        "this is a dataset on the hub, not a model: choose another name",
    ),
    "a refused file": (
        lambda hub, patch: failing(hub, "PUT /large/", 400),
        "me/janus",
        "the upload failed (Bad request: so the test wants it)",
    ),
    "a refused commit": (
        lambda hub, patch: failing(hub, "POST .*/commit/", 413),
        "me/janus",
        "the hub answered with an error (",
    ),
    "a branch that is none": (
        lambda hub, patch: failing(hub, "POST .*/branch/", 400),
        "me/janus --revision a..b",
        "the hub answered with an error (",
    ),
    "an address": (lambda hub, patch: None, "https://hub.example/me/janus", "a repository is named OWNER/NAME"),
    "a bare name": (lambda hub, patch: None, "janus", "a repository is named OWNER/NAME"),
    "no message": (lambda hub, patch: None, "me/janus --commit-message ''", "--commit-message is empty"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_is_one_line(here, exported, monkeypatch, run, name) -> None:
    change, words, message = ERRORS[name]
    change(here, monkeypatch)
    code, output, errors = run("export", exported, "--push-to-hub", *words.replace("''", " ").split(" ", 2))
    assert code == 2 and not output and message in errors, errors
    assert errors.count("\n") == 1 and errors.startswith("error: --") and TOKEN not in errors
    if "it again" in errors:
        assert f"{exported} is whole, to upload it again: janus-train export {exported} --push-to-hub" in errors


@pytest.mark.skipif(find_spec("hf_xet") is None, reason="hf_xet is not installed")
def test_a_hub_without_xet_is_told_apart(here, exported, monkeypatch, run) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    code, _, errors = run("export", exported, "--push-to-hub", "me/janus")
    assert code == 2 and "HF_HUB_DISABLE_XET=1 uploads without it" in errors and errors.count("\n") == 1


def test_options_of_an_upload_need_one(exported, tmp_path, run) -> None:
    for words, message in (
        ((), "say where to write the model: --out FOLDER, or --push-to-hub OWNER/NAME"),
        (("--out", tmp_path / "x", "--private"), "--private is for an upload: add --push-to-hub OWNER/NAME"),
        (("--out", tmp_path / "x", "--revision", "v1"), "--revision is for an upload"),
        (("--out", tmp_path / "x", "--license", "MIT licence"), "--license MIT licence is not a name of the hub's"),
    ):
        code, _, errors = run("export", exported, *words)
        assert code == 2 and message in errors and not (tmp_path / "x").exists()
