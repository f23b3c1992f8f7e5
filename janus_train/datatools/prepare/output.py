"""The prepared folder: shards that are whole or not there, and enough beside them to go on after a kill.

    shard-00000.tar, its index, ...     shards.json     skipped.jsonl     prepared.json
    .prepare/  while it is being made: what it is made from, and for every shard where its input ends

A shard is written under another name, synced and renamed; then what it holds is noted, then it is indexed. One with all
three is kept by the next run, everything after it is made again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Any

from janus_train.data.shards.index import index_path, write_listing
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.samples import EncodedSample, RecordSamples, SkippedRecord
from janus_train.errors import UserError
from janus_train.files import read_json_object, sync, write_json
from janus_train.jsonl import write_json_lines

SCHEMA = 1
PREPARED, SKIPPED, NOTES = "prepared.json", "skipped.jsonl", ".prepare"


@dataclass
class Cursor:
    """How far the input is used: records of a unit, samples of the record after them."""

    unit: int = 0
    record: int = 0
    sample: int = 0


@dataclass
class Totals:
    """What was made so far."""

    records: int = 0
    samples: int = 0
    bytes: int = 0
    shards: int = 0
    bad: int = 0
    """Records that were skipped though nobody asked for it."""
    skipped: list[SkippedRecord] = field(default_factory=list)

    def skip(self, *skipped: SkippedRecord) -> None:
        self.skipped += skipped
        self.bad += sum(not record.left_out for record in skipped)


class _OpenShard:
    """The shard that is being written.

    webdataset's `TarWriter` writes it. Its headers get neither time nor owner, so that the same samples give the same
    bytes. It sorts the members of what it is given at once by name, which would put ``10.jpg`` before ``2.jpg``: it is
    given one at a time. Loading it takes seconds (torch comes with it), which is why only the process that writes does.
    """

    def __init__(self, path: Path):
        from webdataset import TarWriter

        self.path = path
        self.samples = self.bytes = 0
        self._file = path.open("wb")
        self._writer = TarWriter(self._file, user="", group="", mode=0o644, mtime=0, encoder=False)

    def write(self, sample: EncodedSample) -> None:
        for ending, data in sample.members:
            self._writer.write({"__key__": sample.key, ending: data})
        self._writer.tarstream.members.clear()  # else it keeps the headers of the whole shard in memory
        self.samples += 1
        self.bytes += sample.tar_bytes

    def finish(self) -> None:
        """End the tar; all of it is on the disk then."""
        self._writer.close()
        self.bytes = self._file.tell()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        with suppress(OSError):  # the disk may be full
            self._writer.close()
        with suppress(OSError):
            self._file.close()
        self.path.unlink(missing_ok=True)


class Output:
    """Writes samples as they come, in order. Use as a context: what is unfinished goes when it ends badly."""

    def __init__(self, folder: Path, options: PrepareOptions, plan_digest: str):
        self.folder, self._options = folder, options
        self._identity: dict[str, Any] = {"schema": SCHEMA, "arguments": options.identity(), "plan": plan_digest}
        self._notes = folder / NOTES
        self.totals, self.cursor = Totals(), Cursor()
        self._shard: _OpenShard | None = None
        self._since: list[SkippedRecord] = []  # skipped since the last shard was closed
        self._records_since = 0

    # -- opening

    def already_done(self) -> dict[str, Any] | None:
        """What a finished folder says of itself; None if there is work to do. Raises `UserError` if it is another's."""
        if (self.folder / PREPARED).exists():
            content = _read(self.folder / PREPARED)
            self._compare(content)
            shutil.rmtree(self._notes, ignore_errors=True)
            return content
        if (self._notes / "from.json").exists():
            self._compare(_read(self._notes / "from.json"))
        elif self.folder.exists() and any(path.name != NOTES for path in self.folder.iterdir()):
            raise UserError(f"--out {self.folder} is not empty and was not made by prepare: name another folder")
        return None

    def __enter__(self) -> Output:
        self._notes.mkdir(parents=True, exist_ok=True)
        self._lock = (self._notes / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(f"another prepare is writing to {self.folder}") from None
        write_json(self._notes / "from.json", self._identity)
        self._resume()
        return self

    def __exit__(self, *error: object) -> None:
        if self._shard is not None:
            self._shard.discard()
        self._lock.close()

    def _compare(self, content: dict[str, Any]) -> None:
        if content.get("schema") != SCHEMA:
            raise UserError(
                f"{self.folder} was prepared by another version of prepare: remove it or name another --out"
            )
        was, now = content.get("arguments", {}), self._identity["arguments"]
        other = [name for name in now if was.get(name) != now[name]]
        if other:
            changes = ", ".join(f"{name} {was.get(name)!r} then, {now[name]!r} now" for name in other[:3])
            raise UserError(
                f"{self.folder} was prepared with other options ({changes}): remove it or name another --out"
            )
        if content.get("plan") != self._identity["plan"]:
            raise UserError(
                f"the input has changed since {self.folder} was begun: remove it to make it anew, or name another --out"
            )

    def _resume(self) -> None:
        """Keep the whole shards from the first on, remove what is after them."""
        while True:
            tar = self._tar(self.totals.shards)
            note = self._note(self.totals.shards)
            if not (tar.exists() and note.exists() and index_path(tar).exists()):
                break
            content = _read(note)
            if tar.stat().st_size != content["bytes"]:
                break
            self.totals.shards += 1
            self.totals.samples += content["samples"]
            self.totals.records += content["records"]
            self.totals.bytes += content["bytes"]
            self.totals.skip(*(SkippedRecord(**values) for values in content["skipped"]))
            self.cursor = Cursor(**content["next"])
        kept = {self._tar(number).name for number in range(self.totals.shards)}
        for path in [*self.folder.glob("shard-*"), *self.folder.glob(".shard-*.part")]:
            if path.name.partition(".tar")[0] + ".tar" not in kept:
                path.unlink()

    # -- writing

    def add(self, outcome: RecordSamples | SkippedRecord, unit: int, record: int) -> list[Path]:
        """Take what record ``record`` of unit ``unit`` gave. Returns the shards that are whole now and need an index."""
        closed: list[Path] = []
        self._records_since += 1
        if isinstance(outcome, SkippedRecord):
            self._since.append(outcome)
            self.totals.skip(outcome)
        else:
            start = self.cursor.sample if (unit, record) == (self.cursor.unit, self.cursor.record) else 0
            for number, sample in enumerate(outcome.samples):
                if number < start:
                    continue  # in the last shard of the run before
                if self._full(sample.tar_bytes):
                    self._records_since -= 1  # a record counts for the shard that it ends in
                    closed += self.close(Cursor(unit, record, number))
                    self._records_since = 1
                self._write(sample)
        self.totals.records += 1
        return closed

    def _full(self, size: int) -> bool:
        if self._shard is None or self._shard.samples == 0:
            return False
        limit = self._options.shard_samples
        if limit is not None and self._shard.samples >= limit:
            return True
        return self._shard.bytes + size + 2 * BLOCKSIZE > self._options.shard_size

    def _write(self, sample: EncodedSample) -> None:
        if self._shard is None:
            self._shard = _OpenShard(self.folder / f".shard-{os.getpid()}.part")
        self._shard.write(sample)
        self.totals.samples += 1

    def close(self, cursor: Cursor) -> list[Path]:
        """End the shard, if there is one, and return it; ``cursor`` is where the next one begins."""
        shard = self._shard
        if shard is None:
            return []
        shard.finish()
        tar = self._tar(self.totals.shards)
        os.replace(shard.path, tar)
        sync(self.folder)
        note = {
            "samples": shard.samples,
            "records": self._records_since,
            "bytes": shard.bytes,
            "next": asdict(cursor),
            "skipped": [asdict(record) for record in self._since],
        }
        write_json(self._note(self.totals.shards), note)
        self.totals.shards += 1
        self.totals.bytes += shard.bytes
        self._shard, self._since, self._records_since = None, [], 0
        return [tar]

    def _tar(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.tar"

    def _note(self, number: int) -> Path:
        return self._notes / f"shard-{number:05d}.json"

    # -- the end

    def write_skipped(self) -> Path:
        """One JSON line a record that was skipped."""
        path = self.folder / SKIPPED
        write_json_lines(path, map(asdict, self.totals.skipped))
        return path

    def finish(self, version: str) -> dict[str, Any]:
        """Say what was made. From here on the folder is whole."""
        totals = self.totals
        self.write_skipped()
        content = self._identity | {
            "version": version,
            "records": totals.records,
            "samples": totals.samples,
            "shards": totals.shards,
            "bytes": totals.bytes,
            "skipped": dict(sorted(Counter(record.reason for record in totals.skipped if not record.left_out).items())),
            "left_out": dict(sorted(Counter(record.reason for record in totals.skipped if record.left_out).items())),
        }
        write_listing(self.folder)
        write_json(self.folder / PREPARED, content)
        shutil.rmtree(self._notes)
        return content


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except (UserError, FileNotFoundError) as error:
        raise UserError(f"{error}: remove the folder to make it anew") from None
