"""The way of a conversion: find the inputs, plan, go on from what is there, convert and write, say what was made."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from janus_train.data.shards.index import own_index, write_listing
from janus_train.data.shards.scan import write_index
from janus_train.datatools.prepare.formats import open_format
from janus_train.datatools.prepare.inputs import expand
from janus_train.datatools.prepare.items import Unit
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.output import Cursor, Output, Totals
from janus_train.datatools.prepare.workers import Workers, start
from janus_train.errors import UserError
from janus_train.targets import check_folder

ProgressCallback = Callable[[Totals, int], None]
"""Called often: what was made so far, and how many records there are."""


@dataclass(frozen=True)
class ConversionPlan:
    """All units in order; the digest tells whether the input is still the one that a folder was begun from."""

    units: list[Unit]
    records: int
    digest: str


def prepare(
    options: PrepareOptions, out: Path, workers: int, max_bad: float, report: ProgressCallback
) -> dict[str, Any]:
    """Make the shards of ``out``, or what is missing of them. Returns what prepared.json says.

    Raises `UserError` before anything is written if options or inputs are wrong, and at once when more than the share
    ``max_bad`` of the records cannot be used (skipped.jsonl has them then); the same command goes on after either.
    """
    options.check()
    check_folder(out)
    format_ = open_format(options)
    alone, several = start(options, format_, 1), start(options, format_, workers)
    try:
        jobs = format_.jobs()
        plan = make_plan(several if len(jobs) > 1 else alone, jobs)
        output = Output(out, options, plan.digest)
        done = output.already_done()
        return done or _fill(output, plan, several if len(plan.units) > 1 else alone, max_bad, report)
    finally:
        several.close()


def make_plan(workers: Workers, jobs: list[Any]) -> ConversionPlan:
    """The units of all jobs, numbered through. Raises `UserError` if there is no record at all."""
    units: list[Unit] = []
    records, digest = 0, hashlib.sha256()
    try:
        for job_units in workers.plan(jobs):
            for unit in job_units:
                digest.update(unit.line() + b"\n")
                units.append(replace(unit, first=records))
                records += unit.count
    except OSError as error:
        raise UserError(f"{error.filename or 'the input'} cannot be read ({error.strerror or error})") from None
    if not records:
        raise UserError("the input holds no record: there is nothing to prepare")
    return ConversionPlan(units, records, digest.hexdigest()[:16])


def _fill(
    output: Output, plan: ConversionPlan, workers: Workers, max_bad: float, report: ProgressCallback
) -> dict[str, Any]:
    try:
        with output:
            _convert(output, plan, workers, max_bad, report)
            return output.finish(version("janus_train"))
    except OSError as error:  # what goes wrong in reading is told apart before it comes here
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else f"{error.filename or output.folder}: {error.strerror or error}"
        raise UserError(
            f"--out {output.folder} cannot be written, {what}: the same command goes on from the last whole shard"
        ) from None


def _convert(output: Output, plan: ConversionPlan, workers: Workers, max_bad: float, report: ProgressCallback) -> None:
    totals, first = output.totals, output.cursor
    report(totals, plan.records)
    for number, outcomes in enumerate(workers.convert(plan.units[first.unit :]), first.unit):
        for record, outcome in enumerate(outcomes):
            if number == first.unit and record < first.record:
                continue
            for tar in output.add(outcome, number, record):
                workers.index(tar)
        if totals.bad > max_bad * plan.records:
            path = output.write_skipped()
            raise UserError(
                f"{totals.bad} of {plan.records} records cannot be used, more than {max_bad:.3g} of them: {path} says why; "
                "the same command with a larger --max-bad goes on"
            )
        report(totals, plan.records)
    for tar in output.close(Cursor(unit=len(plan.units))):
        workers.index(tar)
    workers.finish()
    if not totals.samples:
        raise UserError(f"no sample came out of {plan.records} records: {output.write_skipped()} says why")


def index_only(options: PrepareOptions) -> list[Path]:
    """Index the tars as they stand and return the indices. Raises `UserError` for one in another layout."""
    tars = [Path(path) for path in expand(options.inputs, (".tar",), "tar")]
    indices = [own_index(tar) if own_index(tar).exists() else write_index(tar) for tar in tars]
    for folder in sorted({tar.parent for tar in tars}):
        write_listing(folder)
    return indices
