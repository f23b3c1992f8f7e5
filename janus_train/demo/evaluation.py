"""Evaluates a model on held-out scenes of the embedded images.

held-out scenes -> prompts   -> images -> detector  -> shares right, beside true images and VQ round trips
                -> questions -> answers  -> comparison -> shares right
dialogues       -> perplexity of the answers
    -> results.json, pictures.jsonl, answers.jsonl, pictures/*.png, grid.png, drawn.png
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from janus_train.demo.generation import evaluate_generation
from janus_train.demo.objects import SHARDS_FOLDER, embedded_shards
from janus_train.demo.options import DemoOptions
from janus_train.demo.understanding import evaluate_answers, evaluate_dialogues
from janus_train.errors import UserError
from janus_train.evaluate.options import Progress
from janus_train.infer.load import LoadedModel


def evaluate(
    model: LoadedModel,
    out_dir: str | Path,
    options: DemoOptions,
    progress: Progress | None = None,
    num_dialogues: int = 100,
) -> dict[str, Any]:
    """Generate images, answer questions, judge, and write all into ``out_dir``; returns the content of results.json."""
    report = progress or (lambda phase, completed, total: None)
    start = time.monotonic()
    shards = embedded_shards()
    if not shards:
        raise UserError(f"the embedded images are missing: there is no .tar in {SHARDS_FOLDER}")
    out = _prepare_folder(Path(out_dir).expanduser())
    measures, num_objects = evaluate_generation(model, shards, out, options, report)
    measures += evaluate_answers(model, shards, out, options, report)
    results = {
        "model": model.name,
        "num_objects": num_objects,
        "num_prompts": options.num_prompts,
        "num_questions": options.num_questions,
        "seed": options.seed,
        "guidance": model.guidance if options.guidance is None else options.guidance,
        "temperature": model.temperature if options.temperature is None else options.temperature,
        "measures": measures,
        "text": evaluate_dialogues(model, shards, options, report, num_dialogues),
        "seconds": round(time.monotonic() - start, 1),
    }
    (out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return results


def _prepare_folder(out: Path) -> Path:
    """Remove the files of an earlier evaluation; results.json is written last, so it marks a complete evaluation."""
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    (out / "results.json").unlink(missing_ok=True)
    for pattern in ("[0-9][0-9][0-9][0-9]*.png", "asked-[0-9]*.png"):
        for path in (out / "pictures").glob(pattern):
            path.unlink()
    return out
