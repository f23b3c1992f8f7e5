"""A conversion from end to end: find the inputs, plan, resume after existing shards, convert and write, summarise."""

from __future__ import annotations

import errno
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from janus_train.data.shards.index import own_index
from janus_train.data.unused import add_counts, counting
from janus_train.datatools.index import IndexResult, index_tars
from janus_train.datatools.prepare.formats import open_format
from janus_train.datatools.prepare.inputs import expand
from janus_train.datatools.prepare.items import Unit
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.output import Cursor, Output, Totals
from janus_train.datatools.prepare.workers import Workers, start
from janus_train.errors import UserError
from janus_train.files import file_sha256
from janus_train.targets import check_folder

ProgressCallback = Callable[[Totals, int], None]
"""Called often with the totals so far and the number of records."""
CompareCallback = Callable[[int, int], None]
"""Called often with the number of units that were read again, and the number of all that have to be."""


@dataclass(frozen=True)
class ConversionPlan:
    """All units in order. A changed digest means that the input has changed since a folder was started.

    ``unused``: counts of files, members and the like that no unit uses.
    """

    units: list[Unit]
    records: int
    digest: str
    unused: Counter[str]


def prepare(
    options: PrepareOptions,
    out: Path,
    workers: int,
    max_bad: float,
    report: ProgressCallback,
    on_compare: CompareCallback = lambda units, all_units: None,
) -> dict[str, Any]:
    """Make the shards of ``out``, or those that are missing. Returns the content of prepared.json.

    Raises `UserError` before anything is written if options or inputs are wrong, and as soon as more than the share
    ``max_bad`` of the records cannot be used (skipped.jsonl lists them). The same command resumes after either.
    """
    options.check()
    check_folder(out)
    with counting() as unused:
        format_ = open_format(options)
    serial_workers, parallel_workers = start(options, format_, 1), start(options, format_, workers)
    try:
        jobs = format_.jobs()
        plan = make_plan(parallel_workers if len(jobs) > 1 else serial_workers, jobs, options)
        add_counts(plan.unused, unused)
        output = Output(out, options, plan.digest)
        unit_workers = parallel_workers if len(plan.units) > 1 else serial_workers
        finished_result = output.finished_result()
        if finished_result is None:
            return _fill(output, plan, unit_workers, max_bad, report, on_compare)
        if _compare_content(output, plan, unit_workers, on_compare):
            output.write_inputs()
        return finished_result
    finally:
        parallel_workers.close()


def make_plan(workers: Workers, jobs: list[Any], options: PrepareOptions) -> ConversionPlan:
    """The units of all jobs, with record numbers over all of them. Raises `UserError` if there is no record."""
    units: list[Unit] = []
    records, digest = 0, hashlib.sha256()
    unused: Counter[str] = Counter()
    if options.classes is not None:
        digest.update(file_sha256(Path(options.classes)).encode())
    try:
        for job in workers.plan(jobs):
            digest.update("".join(job.digests).encode())
            add_counts(unused, job.unused)
            for unit in job.units:
                digest.update(unit.line() + b"\n")
                units.append(replace(unit, first_record=records))
                records += unit.count
    except OSError as error:
        raise UserError(f"{error.filename or 'the input'} cannot be read ({error.strerror or error})") from None
    if not records:
        raise UserError("the input contains no record: there is nothing to prepare")
    return ConversionPlan(units, records, digest.hexdigest()[:16], unused)


def _compare_content(output: Output, plan: ConversionPlan, workers: Workers, on_compare: CompareCallback) -> bool:
    """Read again what has another stamp than when it was converted. Returns whether there was any.

    Raises `UserError` if its content is not the same.
    """
    pairs = list(zip(output.units, plan.units, strict=False))  # an unfinished folder has the first units only
    touched = [number for number, (unit, planned_unit) in enumerate(pairs) if unit.stamp != planned_unit.stamp]
    contents = workers.read_content(plan.units[number] for number in touched)
    for done, (number, content) in enumerate(zip(touched, contents, strict=True), 1):
        if content.digest != output.units[number].digest:
            raise output.input_changed(content.where)
        output.units[number] = content
        on_compare(done, len(touched))
    return bool(touched)


def _fill(
    output: Output,
    plan: ConversionPlan,
    workers: Workers,
    max_bad: float,
    report: ProgressCallback,
    on_compare: CompareCallback,
) -> dict[str, Any]:
    try:
        with output:
            _compare_content(output, plan, workers, on_compare)
            _convert(output, plan, workers, max_bad, report)
            return output.finish(version("janus_train"), plan.unused)
    except OSError as error:  # errors while reading have become `UserError` before
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        problem = "the disk is full" if is_full else f"{error.filename or output.folder}: {error.strerror or error}"
        raise UserError(
            f"--out {output.folder} cannot be written, {problem}: the same command resumes after the last finished shard"
        ) from None


def _convert(output: Output, plan: ConversionPlan, workers: Workers, max_bad: float, report: ProgressCallback) -> None:
    totals, cursor = output.totals, output.cursor
    report(totals, plan.records)
    for number, outcomes in enumerate(workers.convert(plan.units[cursor.unit :]), cursor.unit):
        for tar in output.add_unit(number, plan.units[number], outcomes):
            workers.index(tar)
        if totals.num_bad > max_bad * plan.records:
            path = output.write_skipped_records()
            [(reason, count)] = Counter(r.reason for r in totals.skipped_records if not r.left_out).most_common(1)
            raise UserError(
                f"{totals.num_bad} of {plan.records} records cannot be used, more than {max_bad:.3g} of them: see {path} "
                f"({count} times: {reason}); the same command with a larger --max-bad resumes"
            )
        report(totals, plan.records)
    for tar in output.close(Cursor(unit=len(plan.units))):
        workers.index(tar)
    workers.finish()
    if not totals.samples:
        raise UserError(f"{plan.records} records gave no sample: see {output.write_skipped_records()}")


def index_only(options: PrepareOptions) -> tuple[list[Path], IndexResult]:
    """Index the tars in place. Returns the paths of the indices, and what the tars have that is not in them.

    Raises `UserError` for a tar in another layout.
    """
    tars = [Path(path) for path in expand(options.inputs, (".tar",), "tar")]
    result = index_tars(tars, workers=1, only_missing=True)
    for message in result.errors.values():
        raise UserError(message)
    return [own_index(tar) for tar in tars], result
