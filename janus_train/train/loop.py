"""A stage's run, from its configuration to ``final/``: the one place that sees data, model and folder together."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import JanusForConditionalGeneration

from janus_train import report
from janus_train.config import PARTS, Config, Part
from janus_train.data.cached_codes import CodesOrigin, check_codes
from janus_train.data.collate import collate
from janus_train.data.encode import Encoder
from janus_train.data.loader import steps, streams_of
from janus_train.data.mixture import make_encoder, open_mixture, open_recipe
from janus_train.data.sample import Batch, Row, digest
from janus_train.data.streams import deal_anew
from janus_train.errors import UserError
from janus_train.interop.hub import is_hub_id, local_folder
from janus_train.interop.model_folder import open_folder
from janus_train.model import compile as compiling
from janus_train.model import lora
from janus_train.model.activation_checkpointing import checkpoint_layers
from janus_train.model.chunked_cross_entropy import text_head
from janus_train.model.parts import is_lora, parameters_by_part, part_digests, set_trainable
from janus_train.model.precision import cast_frozen_to_bf16
from janus_train.model.vq import encoder_digest
from janus_train.train import checkpoint, rendezvous
from janus_train.train.backends import Backend, make_backend
from janus_train.train.bad_steps import BadSteps, check_finite
from janus_train.train.distributed import Distributed
from janus_train.train.folder import RunFolder
from janus_train.train.metrics import Log, batch_metrics, cut_back, step_metrics
from janus_train.train.optim import learning_rate
from janus_train.train.preview import draw_previews
from janus_train.train.quarantine import Quarantine
from janus_train.train.ranks import ForwardTimer, Ranks
from janus_train.train.result import with_start_weights, write_result
from janus_train.train.saver import Saver
from janus_train.train.space import check_space
from janus_train.train.start import check_frozen, find_start, load_start
from janus_train.train.step import SKIPPED, train_step
from janus_train.train.stopping import Stopped, StopSignals
from janus_train.train.utilisation import Utilisation
from janus_train.train.watchdog import Watchdog


def run(config: Config) -> Path:
    """Train one stage; returns the run's folder. Everything is checked before the first file is written.

    Raises `UserError`, `Stopped` (on every rank, after a signal to any) and `Lost` (another rank is gone).
    """
    store = rendezvous.join(config.run)
    distributed = Distributed(config)
    deadlines = Watchdog(distributed.rank, config.run.first_step_timeout_s, config.run.timeout_s)
    with rendezvous.sharing_errors(store), deadlines as watchdog, compiling.compile_errors_as_user_errors():
        return _run(config, distributed, watchdog)


def _run(config: Config, distributed: Distributed, watchdog: Watchdog) -> Path:
    my_streams = streams_of(distributed.rank, distributed.world_size, config.batch.rows_per_step)
    if len(my_streams) % config.batch.micro_rows:
        raise UserError(
            f"batch.micro_rows {config.batch.micro_rows} does not divide the {len(my_streams)} rows a process has in a step"
        )
    recipe = open_recipe(config)
    data_digests = recipe.digests()
    folder = RunFolder(config, data_digests)
    state = folder.state()
    if state == "finished":
        print(f"{folder.path} is finished at step {config.run.steps}: the model is in {folder.final}")
        return folder.path
    if config.peft is not None:
        lora.check_usable(distributed.backend)
    compiled = compiling.should_compile(config, distributed.device, distributed.gathers_inside_layers)
    check_space(config, folder.path)
    if config.init_from is not None and is_hub_id(config.init_from):
        with distributed.main_first():
            local_folder(config.init_from, "init_from=")
    start = find_start(config, folder, state)
    janus, tokenizer, new_parts = load_start(config, start)
    extras = open_folder(start.folder).extras() if distributed.is_main else {}
    check_codes(recipe, CodesOrigin(encoder_digest(janus.model.vqmodel), config.model.picture_out_size))
    encoder = make_encoder(config, tokenizer)
    frozen = part_digests(janus, [part for part in PARTS if part not in config.train_parts])
    if state == "resume":
        check_frozen(folder, start, frozen)
    narrowed = _make_trainable(janus, config, new_parts, compiled, distributed)
    parts = parts_table(janus, config, new_parts)
    backend = make_backend(janus, config, distributed)

    drawer, packer = open_mixture(config, recipe, encoder)
    found = checkpoint.newest(folder.path, distributed) if state == "resume" else None
    done, stream_states = (found.step, checkpoint.load(found, backend)) if found else (0, {})
    if found and folder.forced:
        stream_states = deal_anew(stream_states.values(), config.batch.rows_per_step)
    batches = steps(drawer, packer, my_streams, stream_states, config.data.num_workers)
    first_rows = next(batches)  # the first draw finds most of what can be wrong with data: before anything is written

    if distributed.is_main:
        if state == "next_stage":
            print(f"the earlier stage's files are now in {folder.archive()}")
        folder.open(start.what, start.recorded, parts, frozen, found is not None)
        cut_back(folder.metrics, done)
        cut_back(folder.quarantine, done)
        cut_back(folder.bad_steps, done)
    distributed.barrier()
    log = Log(config, folder.metrics, done + 1, distributed)
    log.say(f"stage {config.stage} starts from " + (f"its checkpoint {found.folder}" if found else start.what))
    if folder.forced and found:
        log.say(f"  resume=force goes on with other settings: {'; '.join(folder.forced)}; its streams are dealt anew")
    for part in [] if found else new_parts:
        log.say(f"  {part} is new, initialised by seed {config.seed}")
    try:
        quarantine = Quarantine(folder.quarantine, recipe.lengths, config.data.max_bad, distributed)
        previews = recipe.config.previews
        saver = Saver(folder.path, backend, distributed, config.run.keep_checkpoints, data_digests, log.say)
        trainer = _Trainer(
            config, distributed, backend, saver, encoder, folder, log, quarantine, previews, watchdog, compiled
        )
        trainer.train(batches, first_rows, done)
    finally:
        log.close()
    watchdog.beat("the last step", long=True)
    weights = backend.whole_state()
    if weights is not None:
        write_result(
            janus, encoder, folder, with_start_weights(weights, narrowed, Path(start.recorded)), config, start, extras
        )
        folder.close(config.run.steps)
        print(f"the model is in {folder.final}, the report is {report.build(folder.path)}")
    distributed.barrier()
    return folder.path


def _make_trainable(
    janus: JanusForConditionalGeneration,
    config: Config,
    new_parts: list[Part],
    compiled: bool,
    distributed: Distributed,
) -> list[str]:
    """What the configuration does to the model, in the order that it needs; the names of the weights that are bf16 now."""
    if config.peft is not None:
        lora.add_lora(janus, config.peft)
    set_trainable(janus, config.train_parts)
    checkpoint_layers(janus, config.memory.activation_checkpointing)
    text_head(janus).chunked = config.memory.text_loss == "chunked"
    if compiled:
        compiling.compile_layers(janus)
    if config.precision == "bf16" and distributed.backend == "replicated":  # elsewhere they are shared out, as fp32
        return cast_frozen_to_bf16(janus, keep=new_parts)  # new ones are in no folder to take them from in the end
    return []


def parts_table(janus: JanusForConditionalGeneration, config: Config, new_parts: list[Any]) -> dict[str, Any]:
    """For the manifest: each part's parameters, whether they train, whether they are new, and those of its adapters."""
    table: dict[str, Any] = {}
    for part, named in parameters_by_part(janus).items():
        adapter = sum(p.numel() for name, p in named if is_lora(name))
        parameters = sum(p.numel() for _, p in named) - adapter
        table[part] = {"parameters": parameters, "trains": part in config.train_parts, "new": part in new_parts}
        table[part] |= {"adapter": adapter} if adapter else {}
    return table


class _Trainer:
    """The steps of a run: rows in, metrics and checkpoints out."""

    def __init__(
        self,
        config: Config,
        distributed: Distributed,
        backend: Backend,
        saver: Saver,
        encoder: Encoder,
        folder: RunFolder,
        log: Log,
        quarantine: Quarantine,
        previews: tuple[str, ...],
        watchdog: Watchdog,
        compiled: bool,
    ):
        self.config, self.distributed, self.backend, self.saver = config, distributed, backend, saver
        self.encoder, self.folder, self.log, self.previews = encoder, folder, log, previews
        self.quarantine, self.watchdog = quarantine, watchdog
        # Compiled layers want shapes that never change.
        self.fixed_tokens = config.batch.row_tokens if compiled else None
        self.bad_steps = BadSteps(folder.bad_steps, distributed, log)
        options, timer = config.run, ForwardTimer(backend.model, distributed.device)
        self.ranks = Ranks(distributed, timer, options.rank_times_every, options.straggler_ratio, log)
        self.utilisation = Utilisation(config, distributed)

    def train(self, batches: Any, first_rows: list[Row], done: int) -> None:
        with StopSignals(announce=self.distributed.is_main) as signals:
            self._train(batches, first_rows, done, signals)

    def _train(self, batches: Any, first_rows: list[Row], done: int, signals: StopSignals) -> None:
        options = self.config.run
        rows = first_rows
        wait_s = 0.0
        for step in range(done + 1, options.steps + 1):
            began = time.perf_counter()
            metrics, stop = self._step(step, rows, wait_s, signals)
            stop = stop if step < options.steps else None  # after the last step there is nothing to stop
            self.saver.poll()
            due = options.checkpoint_every and step % options.checkpoint_every == 0
            if due or stop or step == options.steps:
                self._save(step, rows)
            if options.sample_every and not stop and step % options.sample_every == 0:
                self._draw(step)
            step_s = time.perf_counter() - began + wait_s
            shares = self.utilisation.shares(metrics["flops"], metrics["tokens"], step_s)
            times = {"tokens_per_s": metrics["tokens"] / step_s, **shares, "data_wait_s": wait_s, "step_s": step_s}
            self.log.step(metrics | times)
            self.watchdog.beat(f"step {step}")
            if stop:
                saved = self.saver.finish()
                what = f"step {step} is saved" if saved else f"step {step} could not be saved"
                raise Stopped(f"stopped by {stop}: {what}, the same command goes on from the newest checkpoint")
            if step < options.steps:
                began = time.perf_counter()
                rows = next(batches)
                wait_s = time.perf_counter() - began
        self.saver.close()

    def _step(
        self, step: int, rows: list[Row], wait_s: float, signals: StopSignals
    ) -> tuple[dict[str, Any], str | None]:
        """The step's metrics, and why all ranks are to stop now, if they are."""
        config = self.config
        quarantined = self.quarantine.take(step, rows)
        planned = config.run.planned_steps or config.run.steps
        rate = learning_rate(step, config.optim, planned)
        self.backend.set_learning_rate(rate)
        if step in config.run.skip_steps:
            result = SKIPPED
            self.log.say(f"step {step}: its batch is not trained on (run.skip_steps)")
        else:
            result = train_step(self.backend, self._micro_batches(rows), self.distributed, config.optim.gradient_clip)
            if not result.applied:
                self.saver.finish()  # what was saved before stays good, should this be the end
            self.bad_steps.judge(step, rows, result)
        agreed = self.ranks.exchange([row.digest for row in rows], signals.received, wait_s)
        metrics = {
            "step": step,
            **step_metrics(result),
            **batch_metrics(rows, config.batch.row_tokens, self.utilisation.useful_flops(rows), self.distributed),
            "quarantined": quarantined,
            "learning_rate": rate,
            "batch_digest": digest(agreed.row_digests),
            **self.ranks.times(step),
        }
        return metrics, agreed.stop

    def _micro_batches(self, rows: list[Row]) -> list[Batch]:
        model, size = self.config.model, self.config.batch.micro_rows
        shape = model.tokens_per_picture, model.image_size, model.picture_out_size, self.fixed_tokens
        return [collate(rows[i : i + size], *shape) for i in range(0, len(rows), size)]

    def _save(self, step: int, rows: list[Row]) -> None:
        check_finite(self.backend, step, self.distributed)
        states = dict(self.distributed.gather([(str(row.stream), row.state) for row in rows]))
        self.saver.begin(step, states)

    def _draw(self, step: int) -> None:
        janus = self.backend.whole_model() if self.previews else None
        if janus is not None:
            with self.distributed.autocast():  # as it trains: what is frozen may be there as bf16 alone
                draw_previews(
                    janus,
                    self.encoder,
                    self.previews,
                    self.folder.path / "samples" / f"step-{step:06d}.png",
                    guidance=self.config.model.guidance,
                    temperature=self.config.model.temperature,
                )
