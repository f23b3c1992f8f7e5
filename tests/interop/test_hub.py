"""Hub ids: the cache and HF_HUB_OFFLINE count, every error is one line, and folders come first."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from janus_train.errors import UserError
from janus_train.interop import hub
from janus_train.interop.hub import is_hub_id, local_folder
from tests.helpers import config_of

ID, COMMIT = "deepseek-ai/Janus-Small", "a" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture
def cached(cache: Path, make_official) -> Path:
    """An official checkpoint as huggingface_hub leaves it in its cache."""
    folder, _ = make_official("bin")
    models = cache / f"models--{ID.replace('/', '--')}"
    (models / "refs").mkdir(parents=True)
    (models / "refs/main").write_text(COMMIT)
    shutil.copytree(folder, models / "snapshots" / COMMIT)
    return models / "snapshots" / COMMIT


def test_a_folder_comes_before_the_hub(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs/run").mkdir(parents=True)
    assert not is_hub_id("outputs/run") and local_folder("outputs/run", "") == Path("outputs/run")
    assert is_hub_id(ID)
    assert not any(map(is_hub_id, ("/abs/path", "./a/b", "a/b/c", "name", "../b")))


def test_the_cache_serves_offline(cached, tmp_path) -> None:
    assert local_folder(ID, "").samefile(cached)


def test_a_revision_is_what_is_fetched(cached, tmp_path) -> None:
    other = cached.with_name("b" * 40)
    shutil.copytree(cached, other)
    (cached.parent.parent / "refs/v2").write_text(other.name)
    assert local_folder(ID, "", revision="v2").samefile(other) and local_folder(ID, "").samefile(cached)
    with pytest.raises(UserError, match="does not have the model"):
        local_folder(ID, "", revision="v3")


def test_every_command_takes_an_id(cached, tmp_path) -> None:
    from janus_train.infer.load import load_model
    from janus_train.interop.convert import import_official
    from janus_train.train.initial_weights import find_start, load_start
    from janus_train.train.run_dir import RunDir

    import_official(ID, tmp_path / "hf")
    loaded = load_model(ID)
    assert loaded.janus.config.vq_config.num_embeddings == 53
    config = config_of(
        "+stage=1",
        "model=from_folder",
        f"init_from={ID}",
        "data=demo",
        "batch.row_tokens=512",
        f"output_dir={tmp_path / 'run'}",
    )
    start = find_start(config, RunDir(config, {}), "new")
    assert start.description == f"init_from {ID}"
    janus, _, _, new = load_start(config, start)
    assert not new and janus.config.vq_config.num_embeddings == 53


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (lambda r: errors.GatedRepoError("403", response=r), "accept them on the model's page and set HF_TOKEN"),
        (
            lambda r: errors.RepositoryNotFoundError("404", response=r),
            "there is no such folder, and the hub has no such",
        ),
        (lambda r: errors.HfHubHTTPError("500\nbusy", response=r), "the hub could not be queried: 500 busy"),
        (lambda r: errors.LocalEntryNotFoundError("no"), "the hub cannot be reached and the cache"),
    ],
)
def test_every_error_is_one_line(monkeypatch, raised, message) -> None:
    httpx = pytest.importorskip(errors.HTTPError.__module__.split(".")[0])
    response = httpx.Response(404, request=httpx.Request("GET", "https://hub.example/x"))

    def fail(*_, **__):
        raise raised(response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError) as error:
        local_folder(ID, "init_from=")
    assert message in str(error.value) and str(error.value).startswith(f"init_from={ID}: ")
    assert "\n" not in str(error.value)


def test_offline_without_it_is_one_line(cache) -> None:
    with pytest.raises(
        UserError, match=r"no such folder, and HF_HUB_OFFLINE is set and the cache \(.*hub\) does not have"
    ):
        local_folder("outputs/typo", "init_from=")


def test_bin_weights_are_fetched_only_where_there_are_no_safetensors(tmp_path, monkeypatch) -> None:
    asked = []

    def fetch(repository, allow_patterns, **options):
        asked.append(allow_patterns)
        if "safetensors" in repository:
            (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    local_folder("some/pickles", "")
    assert [patterns[-1] for patterns in asked] == ["*.safetensors", "*.bin"]
    local_folder("some/safetensors", "")
    assert len(asked) == 3 and asked[-1] == [*hub.SMALL, "*.safetensors"]
