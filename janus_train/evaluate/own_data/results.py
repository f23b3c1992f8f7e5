"""The parts of results.json that say where the results come from, what was read, and the losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from janus_train.data.types import KINDS
from janus_train.data.unused import summary_of
from janus_train.evaluate.own_data.options import OwnDataOptions
from janus_train.evaluate.own_data.questions import Tasks
from janus_train.evaluate.own_data.samples import Reading
from janus_train.evaluate.own_data.sources import DataSource, OwnData
from janus_train.files import file_sha256
from janus_train.infer.load import LoadedModel
from janus_train.model.loss_totals import LossTotals
from janus_train.train.provenance import commit, hardware, versions


def losses(totals: Sequence[LossTotals]) -> dict[str, Any]:
    """The mean loss over all targets and over those of each kind, with their numbers."""
    total = LossTotals.sum_of(totals)
    by_kind = {
        kind: {"loss": total.by_kind[kind], "targets": total.counts[kind]} for kind in KINDS if total.counts[kind]
    }
    return {"loss": total.mean, "targets": sum(total.counts.values()), "by_kind": by_kind}


def source_results(source: DataSource, reading: Reading, totals: LossTotals | None) -> dict[str, Any]:
    """What was read of a source, and its losses."""
    first = reading.unusable[0] if reading.unusable else None
    return {
        "kind": source.kind,
        "template": source.template.name,
        "num_samples": source.num_samples,
        "num_read": reading.num_read,
        "num_used": reading.num_used,
        "num_unusable": len(reading.unusable),
        "first_unusable": f"{first.key}: {first.reason}" if first else None,
        "num_shortened": reading.num_shortened,
        "not_used": dict(reading.not_used.most_common()),
        "losses": None if totals is None else losses([totals]),
    }


def task_results(tasks: Tasks, num_asked: int, num_drawn: int, by: str | None) -> dict[str, Any]:
    """How many questions and prompts the samples have, and how many of them were put to the model."""
    return {
        "num_questions": len(tasks.questions),
        "num_true_answers": tasks.num_answers,
        "num_asked": num_asked,
        "num_prompts": len(tasks.prompts),
        "num_drawn": num_drawn,
        "by": by,
        "num_without_by": tasks.num_without_group,
        "skipped": dict(tasks.skipped.most_common()),
    }


def manifest(loaded: LoadedModel, data: OwnData, options: OwnDataOptions) -> dict[str, Any]:
    """Where the results come from: model, data, options and versions."""
    weight = loaded.janus.lm_head.weight
    effective = {
        "guidance": loaded.guidance if options.guidance is None else options.guidance,
        "temperature": loaded.temperature if options.temperature is None else options.temperature,
    }
    return {
        "model": loaded.name,
        "model_digests": {
            path.name if folder == loaded.folder else str(path): file_sha256(path)[:16]
            for folder in (loaded.folder, *loaded.adapters)
            for path in sorted(folder.glob("*"))
            if _holds_weights(path)
        },
        "data": options.data,
        "data_digests": data.digests,
        "options": options.model_dump(mode="json") | effective,
        "device": str(weight.device),
        "precision": str(weight.dtype).removeprefix("torch."),
        "versions": versions("torch", "transformers"),
        "commit": commit(),
        "hardware": hardware(),
    }


def _holds_weights(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin") and path.is_file()


def notes(results: dict[str, Any]) -> Iterator[str]:
    """Yields lines about what was not read, not used, not asked and not drawn, for the terminal and the page."""
    if results["split"] == "all":
        yield "of the recipe all its samples were evaluated; a model that was trained on it knows them"
    elif results["split"] == "held_out":
        most = results["manifest"]["options"]["num_samples"]
        yield f"of the recipe the samples that it holds out, at most {most:,} of a source (--num-samples)"
    for name, source in results["sources"].items():
        if source["num_samples"] is not None and source["num_read"] < source["num_samples"]:
            yield (
                f"{name}: {source['num_read']:,} of {source['num_samples']:,} samples were read, evenly spread "
                "(--num-samples)"
            )
        if source["num_unusable"]:
            yield (
                f"{name}: {source['num_unusable']:,} of {source['num_read']:,} samples cannot be used (unusable.jsonl), "
                f"the first is {source['first_unusable']}"
            )
        if source["num_shortened"]:
            yield f"{name}: {source['num_shortened']:,} conversations are without the turns that the model's context has no room for"
        if source["not_used"]:
            yield f"{name}: not used: {summary_of(source['not_used'])}"
    tasks = results["tasks"]
    if tasks["num_asked"] < tasks["num_questions"]:
        yield f"{tasks['num_asked']:,} of {tasks['num_questions']:,} questions were asked, evenly spread (--num-questions)"
    if tasks["num_drawn"] < tasks["num_prompts"]:
        yield f"{tasks['num_drawn']:,} of {tasks['num_prompts']:,} prompts were drawn, evenly spread (--num-prompts)"
    for reason, number in tasks["skipped"].items():
        yield f"not asked or drawn: {number:,} {reason}"
    num_cut = sum(scores["all"]["num_cut"] for scores in (results["answers"], results["captions"]) if scores)
    if num_cut:
        yield f"{num_cut:,} answers were cut off at --max-answer-tokens"
    yield from results["images"]["problems"]
    if tasks["num_without_by"]:
        yield f"{tasks['num_without_by']:,} samples have no field {tasks['by']!r}"
