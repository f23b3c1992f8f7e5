"""Shards on a web server and in a store: the same records, few requests, faults tried again and never skipped."""

from __future__ import annotations

import http.server
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from torch.utils.data import DataLoader

from janus_train.data.shards.index import write_listing
from janus_train.data.sources import shards
from janus_train.data.sources.shards import ShardSource, find_tars
from janus_train.data.storage import disk_cache as block_cache
from janus_train.data.storage import remote as storage
from janus_train.data.storage.file_states import file_sizes
from janus_train.data.storage.remote import find, locate, read_all, with_retries
from janus_train.errors import UserError
from tests.helpers import encoded, make_shard, plain_image

BLOCK = 8192


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder with ranges; every `fail_every`-th GET fails, in one way after another."""

    def __init__(self, folder: Path):
        self.folder, self.gets, self.fail_every, self.ranges = folder, 0, 0, True
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, with_body: bool) -> None:
        server, path = self.server, self.server.folder / self.path.lstrip("/")
        if with_body:
            server.gets += 1
        if not path.is_file():
            return self._send(404, b"", with_body)
        data, status = path.read_bytes(), 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted and server.ranges:
            data, status = data[int(wanted[1]) : int(wanted[2]) + 1], 206
        if with_body and server.fail_every and server.gets % server.fail_every == 0:
            way = server.gets // server.fail_every % 3
            if way == 1:  # less than announced, then silence
                return self._send(status, data[: len(data) // 2], True, announced=len(data))
            if way == 0 or status != 206:
                return self._send(503, b"busy", True)
            data = data[: len(data) // 2]  # less than was asked for
        self._send(status, data, with_body)

    def _send(self, status: int, data: bytes, with_body: bool, content_length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if content_length is None else content_length))
        self.send_header("Accept-Ranges", "bytes" if self.server.ranges else "none")
        self.end_headers()
        if with_body:
            self.wfile.write(data)
        if content_length is not None:
            self.close_connection = True


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of seven samples, listed; an image is noise, so that no two blocks are the same."""
    folder = tmp_path / "data"
    folder.mkdir()
    for shard in range(3):
        members: dict[str, object] = {}
        for i in range(7):
            members |= {f"{shard}-{i}.json": {"n": i}, f"{shard}-{i}.png": encoded(plain_image((i, shard, 0)))}
            members[f"{shard}-{i}.bin"] = os.urandom(3000)
        make_shard(folder / f"{shard}.tar", members)  # type: ignore[arg-type]
    write_listing(folder)
    return folder


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server(folder.parent)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(block_cache, "KEEP_FREE_BYTES", 0)
    monkeypatch.setattr(block_cache.BlockCache.__init__, "__defaults__", (BLOCK,))
    monkeypatch.setenv("JANUS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("JANUS_CACHE_GIB", "1")
    block_cache._block_cache.cache_clear()


def in_memory(folder: Path) -> str:
    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe(f"/bucket{folder}/{path.name}", path.read_bytes())
    return f"memory://bucket{folder}"


def keys(source: ShardSource) -> list[tuple[str, int, int]]:
    return [(record.key, record.fields["n"], record.images[0].convert("RGB").getpixel((0, 0))[1]) for record in source]


RECORDS = [(f"{shard}-{i}", i, shard) for shard in range(3) for i in range(7)]


@pytest.mark.parametrize("gib", ["0", "1"])
@pytest.mark.parametrize("ending", ["", "/*.tar"])
def test_a_web_server_gives_the_same_records(
    server: Server, gib: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JANUS_CACHE_GIB", gib)
    tars = find_tars(f"{server.url}/data{ending}")
    assert tars == [f"{server.url}/data/{n}.tar" for n in range(3)]
    assert keys(ShardSource(tars)) == RECORDS


@pytest.mark.parametrize("gib", ["0", "1"])
@pytest.mark.parametrize("ending", ["", "/*.tar", "/[0-2].tar"])
def test_a_store_gives_the_same_records(folder: Path, gib: str, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JANUS_CACHE_GIB", gib)
    url = in_memory(folder)
    assert keys(ShardSource(find_tars(url + ending))) == RECORDS
    assert find_tars(f"{url}/1.tar") == [f"{url}/1.tar"] and find_tars(f"{url}/9*.tar") == []


def test_the_cache_saves_requests_also_those_of_other_sources(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shards, "WHOLE_DIGEST_LIMIT", 0)
    tars = find_tars(f"{server.url}/data")
    source = ShardSource(tars)
    requests_to_open = server.gets
    assert keys(source) == RECORDS
    requests_to_read = server.gets - requests_to_open
    blocks = sum(-(-path.stat().st_size // BLOCK) for path in (server.folder / "data").glob("*.tar"))
    assert requests_to_read <= blocks + 3  # each block once, and three indices
    assert keys(source) == keys(ShardSource(tars)) == RECORDS
    assert server.gets == requests_to_open + requests_to_read + 1  # shards.json once more
    assert any((tmp_path / "cache").glob("??/*"))


def test_shards_without_a_listing_are_opened_by_their_own_indices(server: Server) -> None:
    (server.folder / "data/shards.json").unlink()
    assert keys(ShardSource([f"{server.url}/data/{n}.tar" for n in range(3)])) == RECORDS
    assert find_tars(f"{server.url}/data/*.tar") == []  # the web cannot be listed


@pytest.mark.parametrize("gib", ["0", "1"])
@pytest.mark.parametrize("fail_every", [2, 3, 5])
def test_every_nth_request_fails_and_nothing_is_skipped(
    server: Server, gib: str, fail_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JANUS_CACHE_GIB", gib)
    server.fail_every = fail_every
    assert keys(ShardSource(find_tars(f"{server.url}/data"))) == RECORDS


@pytest.mark.parametrize("gib", ["0", "1"])
def test_a_store_that_fails_at_times(folder: Path, gib: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JANUS_CACHE_GIB", gib)
    url, calls = in_memory(folder), [0]
    files = type(fsspec.filesystem("memory"))
    cat_file = files.cat_file

    def sometimes(self: object, *arguments: object, **options: object) -> bytes:
        calls[0] += 1
        if calls[0] % 3 == 0:
            raise RuntimeError("an error of the store's own library")
        if calls[0] % 5 == 0:
            raise TimeoutError
        return cat_file(self, *arguments, **options)

    monkeypatch.setattr(files, "cat_file", sometimes)
    assert keys(ShardSource(find_tars(url))) == RECORDS


def test_a_server_that_stays_away_ends_the_run_naming_the_file(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "WHOLE_DIGEST_LIMIT", 0)
    source = ShardSource(find_tars(f"{server.url}/data"))
    server.fail_every = 1
    with pytest.raises(UserError, match=rf"{server.url}/data/0\.tar.* cannot be read, 5 tries failed") as error:
        source[0]
    assert "\n" not in str(error.value)


def test_a_server_without_ranges_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "WHOLE_DIGEST_LIMIT", 0)
    server.ranges = False
    with pytest.raises(UserError, match="does it serve ranges"):
        ShardSource(find_tars(f"{server.url}/data"))[0]


@pytest.mark.parametrize("where", ["memory", "http"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda tar: tar.write_bytes(tar.read_bytes()[:-512]),
            r"1\.tar is damaged: it has \d+ bytes, its index says \d+",
        ),
        (lambda tar: tar.write_bytes(b""), r"1\.tar is damaged: it has 0 bytes"),
        (lambda tar: tar.unlink(), r"1\.tar does not exist"),
        (lambda tar: tar.write_bytes(b"x" + tar.read_bytes()[1:]), r"1\.tar is damaged: its SHA-256"),
    ],
    ids=["cut", "empty", "missing", "header"],
)
def test_a_damaged_remote_shard_is_refused(server: Server, where: str, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    damage(server.folder / "data/1.tar")
    url = f"{server.url}/data" if where == "http" else in_memory(server.folder / "data")
    with pytest.raises(UserError, match=message):
        ShardSource([f"{url}/{n}.tar" for n in range(3)])


def test_a_rotten_cache_is_no_damage(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong only in the cache is fetched again: blocks of shards, and indices."""
    monkeypatch.setattr(shards, "WHOLE_DIGEST_LIMIT", 0)
    tars = find_tars(f"{server.url}/data")
    assert keys(ShardSource(tars)) == RECORDS
    for path in (tmp_path / "cache").glob("??/*"):
        path.write_bytes(bytes(path.stat().st_size))
    assert keys(ShardSource(tars)) == RECORDS


class _Keys:
    """A data set whose items travel between processes."""

    def __init__(self, source: ShardSource):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> str:
        return self.source[index].key


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
def test_worker_processes_read_urls_after_their_parent_did(server: Server, start: str, workers: int) -> None:
    """fsspec's file systems do not survive a fork: each process has its own."""
    source = ShardSource(find_tars(f"{server.url}/data"))
    assert source[20].key == "2-6"
    loader = DataLoader(_Keys(source), batch_size=None, num_workers=workers, multiprocessing_context=start)  # type: ignore[arg-type]
    assert list(loader) == [key for key, _, _ in RECORDS]


# ---------------------------------------------------------------------------------------------------------- locations


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a/*.tar", Path("/base/a/*.tar")),
        ("/x/y.tar", Path("/x/y.tar")),
        ("file:///x/y.tar", Path("/x/y.tar")),
        ("s3://bucket/a/*.tar", "s3://bucket/a/*.tar"),
        ("https://host:8000/a b/x.tar", "https://host:8000/a b/x.tar"),
        ("abfs://container@account/x.tar", "abfs://container@account/x.tar"),
    ],
)
def test_what_a_recipes_path_means(text: str, wanted: object) -> None:
    assert locate(text, Path("/base")) == wanted


@pytest.mark.parametrize(
    "text",
    ["pipe://x", "simplecache::s3://b/x", "ftp://h/x", "zip://x::s3://y", "python://x", "S3://b/x", "github://a:b@/x"],
)
def test_other_schemes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="URLs may begin with s3://"):
        locate(text, Path("/base"))


@pytest.mark.parametrize(
    "text",
    [
        "https://me:SECRET@host/x.tar",
        "https://SECRET@host/x.tar",
        "https://host/x.tar?X-Amz-Signature=SECRET",
        "s3://key:SECRET@bucket/x",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UserError, match="credentials come from the environment") as error:
        locate(text, Path("/base"))
    assert "SECRET" not in str(error.value)


def test_a_store_whose_package_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_import(*arguments: object, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", fail_import)
    storage._file_system.cache_clear()
    with pytest.raises(UserError, match="s3:// cannot be read here: pip install s3fs"):
        find("s3://bucket/*.tar")


def test_sizes(folder: Path, server: Server) -> None:
    names = ["0.tar", "no.tar", "shards.json"]
    wanted = [(folder / name).stat().st_size if (folder / name).exists() else None for name in names]
    for base in (str(folder), server.url + "/data", in_memory(folder)):
        assert file_sizes([locate(f"{base}/{name}", folder) for name in names]) == wanted


def test_what_is_missing_is_not_tried_again(folder: Path, server: Server) -> None:
    for location in (folder / "no.json", f"{server.url}/data/no.json", in_memory(folder) + "/no.json"):
        before = server.gets
        with pytest.raises(FileNotFoundError):
            read_all(location)
        assert server.gets <= before + 1


def test_missing_permission_is_said_at_once() -> None:
    tries = []

    def refuse() -> None:
        tries.append(1)
        raise PermissionError(13, "Permission denied")

    with pytest.raises(UserError, match=r"x\.tar cannot be read: no permission"):
        with_retries(Path("x.tar"), refuse)
    assert len(tries) == 1
