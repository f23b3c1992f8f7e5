"""One stage's run, from its configuration to ``final/``.

    open the run folder -> build the model without weights -> a backend fills it -> restore -> open the rows
    -> record the start -> train -> write the result

Everything is checked before the first file is written. This is the only module that sees data, model and folder
together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from janus_train.config import Config
from janus_train.data.lengths import LengthCheck, first_long_samples
from janus_train.data.loader import RowLoader, open_recipe, streams_of, worker_deaths_as_user_errors
from janus_train.data.recipe import Recipe
from janus_train.data.streams import reassign_streams
from janus_train.errors import UserError, one_line
from janus_train.model.compile import compile_errors_as_user_errors
from janus_train.train.backends import Backend, make_backend
from janus_train.train.best import Best, read_best
from janus_train.train.checkpoint.format import load as load_checkpoint
from janus_train.train.checkpoint.saver import CheckpointSaver
from janus_train.train.distributed import process_group
from janus_train.train.distributed.context import Distributed
from janus_train.train.distributed.devices import check_gpu_is_used, check_precision, description
from janus_train.train.distributed.watchdog import Watchdog
from janus_train.train.final_model import write_results
from janus_train.train.monitor import Monitor
from janus_train.train.monitor.log import set_up_logging
from janus_train.train.monitor.questions import find_questions
from janus_train.train.provenance import pillow_warning
from janus_train.train.run_dir import (
    RunDir,
    RunState,
    default_path,
    full_disk_as_user_error,
    make_room,
    open_run_dir,
    truncate_records,
)
from janus_train.train.run_lock import RunLock
from janus_train.train.trainable import TrainableModel, load_trainable
from janus_train.train.trainer import Trainer
from janus_train.train.validation import Validation

logger = logging.getLogger(__name__)


def run(config: Config, write_report: Callable[[Path], Path] | None = None) -> Path:
    """Train one stage; returns the run's folder.

    ``write_report`` is called on rank 0 at the end: it gets the run's folder and returns the report's path. It is an
    argument because training does not depend on the report.

    Raises `UserError`, `Preempted` (on every rank, after a signal to any) and `PeerLost` (another rank is gone).
    """
    set_up_logging()
    check_gpu_is_used()  # before the ranks agree on a backend
    store = process_group.join(config.run)
    group = Distributed(config)
    deadline = Watchdog(group.rank, config.run.first_step_timeout_s, config.run.timeout_s)
    with (
        process_group.propagate_errors(store),
        deadline as watchdog,
        compile_errors_as_user_errors(),
        worker_deaths_as_user_errors(),
        full_disk_as_user_error(default_path(config)),
        RunLock(default_path(config)) as lock,
    ):
        return _run(config, group, watchdog, lock, write_report)


def _run(
    config: Config, group: Distributed, watchdog: Watchdog, lock: RunLock, write_report: Callable[[Path], Path] | None
) -> Path:
    check_precision(config, group.device)
    config = fit_micro_rows(config, group.rank, group.world_size)
    recipe = open_recipe(config)
    data_digests = recipe.digests()
    run_dir, state = open_run_dir(config, data_digests, group, lock)
    if state.state == "finished":
        logger.info(
            f"{run_dir.path} is finished at step {run_dir.manifest()['steps']}: the model is in {run_dir.final}"
        )
        return run_dir.path

    model, weights = load_trainable(config, group, run_dir, state, recipe)
    backend = make_backend(model.janus, config, group, weights)
    del weights  # and with it the files that it holds open
    resume = restore(run_dir, state, backend, config)
    rows = RowLoader.open(
        config,
        recipe,
        model.tokenizer,
        group.rank,
        group.world_size,
        resume.streams,
        fixed_shapes=model.is_compiled,
    )
    validation = None
    if config.run.validate_every:
        validation = Validation(config, recipe, data_digests, rows.encoder, group)
    with group.raise_on_all_ranks():
        context = config.model.text.max_position_embeddings
        questions = find_questions(recipe, rows.encoder, context) if config.run.sample_every else []
    rows.peek()  # most errors in the data show in the first rows: find them before anything is written
    if resume.folder is None and group.is_main:
        warn_of_long_samples(config, recipe, model)

    record_start(config, group, run_dir, state, recipe, model, resume)
    best = Best(config.run)
    if validation is not None:
        best = read_best(run_dir.path, config.run, validation.digest, group)
    monitor = Monitor(config, run_dir, recipe, backend, first_step=resume.step + 1, questions=questions)
    saver = CheckpointSaver(run_dir.path, backend, config.run, data_digests, best.kept.step)
    try:
        last_step = Trainer(config, backend, rows, saver, monitor, watchdog, validation, best).train(resume.step)
    finally:
        monitor.close()

    watchdog.beat("the last step", long=True)
    write_results(backend, model, rows.encoder, run_dir, config, last_step, best)
    if group.is_main:
        announce_result(run_dir, write_report)
    group.barrier()
    return run_dir.path


@dataclass(frozen=True)
class Resume:
    """Where a run continues: step 0 for a new run."""

    step: int = 0
    """The number of completed steps."""
    streams: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The streams' states by number."""
    folder: Path | None = None
    """The checkpoint's folder; None for a new run."""


def fit_micro_rows(config: Config, rank: int, world_size: int) -> Config:
    """Lower ``batch.micro_rows``, which changes no update, to what divides the rows that each process has in a step.

    Raises `UserError` if the step's rows cannot be divided among the ranks.
    """
    batch = config.batch
    rows = len(streams_of(rank, world_size, batch.rows_per_step))
    micro_rows = next(size for size in range(min(batch.micro_rows, rows), 0, -1) if rows % size == 0)
    if micro_rows == batch.micro_rows:
        return config
    logger.warning(
        f"batch.micro_rows is {micro_rows}, not {batch.micro_rows}: each of {world_size} processes has {rows} of the "
        f"step's {batch.rows_per_step} rows; this changes no update"
    )
    return config.model_copy(update={"batch": batch.model_copy(update={"micro_rows": micro_rows})})


def restore(run_dir: RunDir, state: RunState, backend: Backend, config: Config) -> Resume:
    """Load the latest valid checkpoint into the backend, if there is one. Raises `UserError`."""
    checkpoint = state.search.newest
    if checkpoint is None:
        return Resume()
    streams = load_checkpoint(checkpoint, backend)
    if run_dir.forced_changes:
        streams = reassign_streams(streams.values(), config.batch.rows_per_step)
    return Resume(checkpoint.step, streams, checkpoint.folder)


def warn_of_long_samples(config: Config, recipe: Recipe, model: TrainableModel) -> None:
    """Log which sources have samples that do not fit a row as a whole, as far as their first samples show it."""
    tokens_per_image, system_prompt = config.model.tokens_per_image, config.model.system_prompt
    check = LengthCheck(model.tokenizer, tokens_per_image, system_prompt, config.batch.row_tokens)
    for line in first_long_samples(recipe, check, config.data.max_bad):
        logger.warning(line)


def record_start(
    config: Config,
    group: Distributed,
    run_dir: RunDir,
    state: RunState,
    recipe: Recipe,
    model: TrainableModel,
    resume: Resume,
) -> None:
    """Write the configuration and the manifest: the first files of the run, once all ranks have passed the checks."""
    is_resume = resume.folder is not None
    group.barrier()
    with group.raise_on_all_ranks():
        if group.is_main:
            warning = pillow_warning(run_dir.manifest().get("versions", {})) if is_resume else None
            if warning:
                logger.warning(warning)
            make_room(run_dir, state)
            run_dir.write_start(
                model.start.description,
                model.start.recorded_path,
                model.parts,
                model.frozen,
                recipe.record(),
                is_resume,
            )
            truncate_records(run_dir, resume.step)
    devices = description(group, config, model.is_compiled)
    origin = f"its checkpoint {resume.folder}" if is_resume else model.start.description
    logger.info(f"stage {config.stage} starts from {origin}")
    logger.info(f"  runs on {devices}")
    if run_dir.forced_changes and is_resume:
        logger.info(
            f"  resume=force with other settings: {'; '.join(run_dir.forced_changes)}; the data streams are reassigned"
        )
    for name, (source, samples) in recipe.sources.items():
        if source.held_out:
            logger.info(f"  source {name!r} holds out {100 * source.held_out:g} % of its {len(samples):,} samples")
    for part in [] if is_resume else model.new_parts:
        logger.info(f"  {part} is new, initialised from seed {config.seed}")


def announce_result(run_dir: RunDir, write_report: Callable[[Path], Path] | None) -> None:
    """Log where the model is, and write the report; a report that cannot be written is only a warning."""
    for line in results_lines(run_dir):
        logger.info(line)
    if write_report is None:
        return
    try:
        logger.info(f"the report is {write_report(run_dir.path)}")
    except (OSError, UserError) as error:
        logger.warning(
            f"the report could not be written ({one_line(error)}): janus-train report {run_dir.path} writes it"
        )


def results_lines(run_dir: RunDir) -> list[str]:
    """Where the models of a finished run are, and what ended it, from its manifest."""
    manifest = run_dir.manifest()
    best, steps = manifest["best"], manifest["steps"]
    lines = [f"the model is in {run_dir.final}"]
    if run_dir.ema.exists():
        lines.append(f"the model of the averaged weights is in {run_dir.ema}")
    if manifest["patience"] is not None:
        why = f"after {manifest['patience']} validations without a new best (run.patience)"
        lines.insert(0, f"the run ends at step {steps}, {why}")
    if best is not None:
        model = f"; its model is in {run_dir.path / best['folder']}" if best["folder"] else ""
        lines.append(f"the best {best['metric']} is {best['value']:.4f} at step {best['step']}{model}")
    return lines
