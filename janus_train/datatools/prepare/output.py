"""Writes the prepared folder: only complete shards, and notes beside them to resume after a kill.

    shard-00000.tar, its index, ...     shards.json     skipped.jsonl     inputs.jsonl     prepared.json
    .prepare/  until it is finished: options and inputs, and for every shard the place where its input ends

A shard is written under another name, synced and renamed; then its note is written, then its index. The next run keeps
shards with all three and makes everything after them again.

Shards are kept only if their input is the same: the notes, and later ``inputs.jsonl``, have for every unit of the input the
stamp of its files and a digest of what was read. The next run reads again what has another stamp, and compares.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Any

from janus_train.data.shards.index import index_path, write_listing
from janus_train.data.unused import add_counts
from janus_train.datatools.prepare.items import Unit
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.samples import EncodedSample, Outcome, SkippedRecord, UnitContent, digest_of
from janus_train.errors import UserError, one_line
from janus_train.files import read_json_object, read_text, sync, write_json
from janus_train.jsonl import write_json_lines

SCHEMA = 2
PREPARED_FILE, SKIPPED_FILE, INPUTS_FILE = "prepared.json", "skipped.jsonl", "inputs.jsonl"
NOTES_FOLDER = ".prepare"


@dataclass
class Cursor:
    """The position in the input: finished records of a unit, and finished samples of the record after them."""

    unit: int = 0
    record: int = 0
    sample: int = 0


@dataclass
class Totals:
    """Totals of the conversion so far."""

    records: int = 0
    samples: int = 0
    bytes: int = 0
    shards: int = 0
    num_bad: int = 0
    """Number of skipped records that the options do not exclude."""
    skipped_records: list[SkippedRecord] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)
    """What was read in the records that are used, and is not used itself."""

    def skip(self, *skipped_records: SkippedRecord) -> None:
        self.skipped_records += skipped_records
        self.num_bad += sum(not record.left_out for record in skipped_records)


class _OpenShard:
    """The shard that is being written.

    webdataset's `TarWriter` writes it. Its headers get neither time nor owner, so that the same samples give the same
    bytes. The writer sorts the members of a call by name, which would put ``10.jpg`` before ``2.jpg``, so each call gets
    one member. Importing it takes seconds (it imports torch), so only the process that writes does.
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
        self._writer.tarstream.members.clear()  # otherwise it keeps the headers of the whole shard in memory
        self.samples += 1
        self.bytes += sample.tar_bytes

    def finish(self) -> None:
        """End the tar and sync it to the disk."""
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
    """Writes samples in order. Use as a context: an unfinished shard is removed if an error ends it."""

    def __init__(self, folder: Path, options: PrepareOptions, plan_digest: str):
        self.folder, self._options = folder, options
        self.units: list[UnitContent] = []
        """What the finished units of the input were made from."""
        self._identity: dict[str, Any] = {"schema": SCHEMA, "arguments": options.identity(), "plan": plan_digest}
        self._notes = folder / NOTES_FOLDER
        self.totals, self.cursor = Totals(), Cursor()
        self._shard: _OpenShard | None = None
        self._skipped_since: list[SkippedRecord] = []  # skipped since the last shard was closed
        self._records_since = 0
        self._num_units_noted = 0
        self._contents: list[bytes] = []  # of the records of the current unit
        self._partial_content = ""  # of the records before the cursor in its unit

    # -- opening

    def finished_result(self) -> dict[str, Any] | None:
        """The prepared.json of a finished folder; None if there is work to do.

        Raises `UserError` if the folder was not made by the same command.
        """
        if (self.folder / PREPARED_FILE).exists():
            content = _read(self.folder / PREPARED_FILE)
            self._compare(content)
            self.units = [UnitContent(**values) for values in _read_lines(self.folder / INPUTS_FILE)]
            shutil.rmtree(self._notes, ignore_errors=True)
            return content
        if (self._notes / "from.json").exists():
            self._compare(_read(self._notes / "from.json"))
        elif self.folder.exists() and any(path.name != NOTES_FOLDER for path in self.folder.iterdir()):
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
        old_options, new_options = content.get("arguments", {}), self._identity["arguments"]
        changed_options = [name for name in new_options if old_options.get(name) != new_options[name]]
        if changed_options:
            changes = ", ".join(
                f"{name} {old_options.get(name)!r} then, {new_options[name]!r} now" for name in changed_options[:3]
            )
            raise UserError(
                f"{self.folder} was prepared with other options ({changes}): remove it or name another --out"
            )
        if content.get("plan") != self._identity["plan"]:
            raise self.input_changed("")

    def input_changed(self, where: str) -> UserError:
        """The error for an input that is not the one that the folder was made from. ``where``: a record; empty: unknown."""
        return UserError(
            f"the input has changed since {self.folder} was started{where and f' (at or after {where})'}: remove it to "
            "start again, or name another --out"
        )

    def write_inputs(self) -> None:
        """Write one JSON line per unit of the input."""
        write_json_lines(self.folder / INPUTS_FILE, map(asdict, self.units))

    def _resume(self) -> None:
        """Keep the complete shards from the first on and remove all later files."""
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
            self.totals.unused = Counter(content["unused"])
            self.units += [UnitContent(**values) for values in content["units"]]
            self._partial_content = content["partial"]
            self.cursor = Cursor(**content["next"])
        self._num_units_noted = len(self.units)
        kept_names = {self._tar(number).name for number in range(self.totals.shards)}
        for path in [*self.folder.glob("shard-*"), *self.folder.glob(".shard-*.part")]:
            if path.name.partition(".tar")[0] + ".tar" not in kept_names:
                path.unlink()

    # -- writing

    def add_unit(self, number: int, unit: Unit, outcomes: list[Outcome]) -> Iterator[Path]:
        """Add the outcomes of unit ``number``. Yields newly finished shards, which need an index.

        Raises `UserError` if records that the previous run has written are not the same now.
        """
        self._contents = [outcome.content for outcome in outcomes]
        start = 0
        if number == self.cursor.unit:
            start = self.cursor.record
            if self._partial_content not in ("", self._content_before(self.cursor)):
                raise self.input_changed(outcomes[0].where)
        for record in range(start, len(outcomes)):
            yield from self._add(outcomes[record], number, record)
        self.units.append(UnitContent(outcomes[0].where, unit.stamp, digest_of(self._contents)))

    def _content_before(self, cursor: Cursor) -> str:
        """The digest of the current unit's records with a sample before the cursor."""
        return digest_of(self._contents[: cursor.record + (cursor.sample > 0)])

    def _add(self, outcome: Outcome, unit: int, record: int) -> list[Path]:
        """Add the outcome of record ``record`` of unit ``unit``. Returns newly finished shards."""
        finished_tars: list[Path] = []
        self._records_since += 1
        if isinstance(outcome.result, SkippedRecord):
            self._skipped_since.append(outcome.result)
            self.totals.skip(outcome.result)
        else:
            start = self.cursor.sample if (unit, record) == (self.cursor.unit, self.cursor.record) else 0
            for number, sample in enumerate(outcome.result.samples):
                if number < start:
                    continue  # in the last shard of the previous run
                if self._full(sample.tar_bytes):
                    self._records_since -= 1  # a record counts for the shard that it ends in
                    finished_tars += self.close(Cursor(unit, record, number))
                    self._records_since = 1
                self._write(sample)
        add_counts(self.totals.unused, outcome.unused)
        self.totals.records += 1
        return finished_tars

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
        """End the shard, if there is one, and return it; ``cursor`` is the start of the next one."""
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
            "skipped": [asdict(record) for record in self._skipped_since],
            "unused": self.totals.unused,
            "units": [asdict(unit) for unit in self.units[self._num_units_noted :]],
            "partial": self._content_before(cursor) if cursor.unit == len(self.units) else "",
        }
        write_json(self._note(self.totals.shards), note)
        self.totals.shards += 1
        self.totals.bytes += shard.bytes
        self._shard, self._skipped_since, self._records_since = None, [], 0
        self._num_units_noted = len(self.units)
        return [tar]

    def _tar(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.tar"

    def _note(self, number: int) -> Path:
        return self._notes / f"shard-{number:05d}.json"

    # -- the end

    def write_skipped_records(self) -> Path:
        """Write one JSON line per skipped record."""
        path = self.folder / SKIPPED_FILE
        write_json_lines(path, map(asdict, self.totals.skipped_records))
        return path

    def finish(self, version: str, unused: Counter[str]) -> dict[str, Any]:
        """Write the summary, which marks the folder as finished, and return it. ``unused``: files, members and the like."""
        totals = self.totals
        add_counts(unused, totals.unused)
        self.write_skipped_records()
        self.write_inputs()
        content = self._identity | {
            "version": version,
            "records": totals.records,
            "samples": totals.samples,
            "shards": totals.shards,
            "bytes": totals.bytes,
            "skipped": dict(
                sorted(Counter(record.reason for record in totals.skipped_records if not record.left_out).items())
            ),
            "left_out": dict(
                sorted(Counter(record.reason for record in totals.skipped_records if record.left_out).items())
            ),
            "unused": dict(sorted(unused.items())),
        }
        write_listing(self.folder)
        write_json(self.folder / PREPARED_FILE, content)
        shutil.rmtree(self._notes)
        return content


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except (UserError, FileNotFoundError) as error:
        raise UserError(f"{error}: remove the folder to start again") from None


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in read_text(path).splitlines()]
    except (UserError, FileNotFoundError, ValueError) as error:
        raise UserError(f"{path}: {one_line(error)}: remove the folder to start again") from None
