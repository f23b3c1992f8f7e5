"""What a result was made from: the protocol, the data, the prompts, the model, the versions. Written before any answer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from janus_train.data.prompt_format import PromptStyle
from janus_train.data.special_tokens import ASSISTANT, USER
from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.registry import OpenTask
from janus_train.files import file_sha256, read_json_object_if_any, write_json
from janus_train.infer.load import LoadedModel
from janus_train.model.parts import MODULES, part_digests
from janus_train.train.provenance import commit, hardware, versions

MANIFEST = "manifest.json"
SAME = {
    "protocol_digest": "protocol",
    "data": "data",
    "prompts_digest": "prompts",
    "roles": "roles",
    "system_prompt": "system prompt",
    "precision": "precision",  # before the weights, which it rounds
    "weights_digest": "model",
    "seed": "seed",
    "limit": "limit",
}
"""What may not change while a task is answered, and how messages call it."""


def weights_digest(model: LoadedModel) -> str:
    """A SHA-256 of all weights as they are loaded: the same for every layout and sharding of a model's files."""
    digests = part_digests(model.janus.state_dict(), tuple(MODULES))
    return hashlib.sha256("".join(digests.values()).encode()).hexdigest()


def model_values(model: LoadedModel) -> dict[str, Any]:
    """What a manifest says of the model and the software."""
    return {
        "model": model.name,
        "weights_digest": weights_digest(model),
        "precision": str(model.janus.dtype).removeprefix("torch."),
        "versions": {**versions("torch", "transformers"), "commit": commit()},
        "hardware": hardware(),
    }


def task_values(
    name: str, task: OpenTask, protocol: Protocol, model: LoadedModel, seed: int, limit: int | None
) -> dict[str, Any]:
    """What a manifest says of one task."""
    system = task.style.system if task.style.system is not None else model.encoder.system_prompt
    user, assistant = roles(task.style, model)
    return {
        "task": name,
        "protocol": protocol.name,
        "protocol_digest": protocol.digest(),
        "roles": [user, assistant],
        "system_prompt": system,
        "data": {str(path): file_sha256(path) for path in task.files},
        "prompts_digest": task.prompts_digest,
        "seed": seed,
        "num_samples": len(task.keys) if limit is None else min(limit, len(task.keys)),
        "limit": limit,
    }


def roles(style: PromptStyle, model: LoadedModel) -> tuple[str, str]:
    """The roles that a model reads in prompts of a style: one without tokens for `USER` and `ASSISTANT` reads words."""
    words = dict(zip((USER, ASSISTANT), model.encoder.speakers, strict=True))
    user, assistant = style.user or USER, style.assistant or ASSISTANT
    return words.get(user, user), words.get(assistant, assistant)


def begin(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest into the task's folder. Raises `UserError` if it holds answers of another model or other data."""
    earlier = read_json_object_if_any(folder / MANIFEST)
    for key, what in SAME.items() if earlier else ():
        if _comparable(key, earlier.get(key)) != _comparable(key, manifest[key]):
            raise UserError(f"{folder} was begun with another {what}: give another --out, or delete that folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MANIFEST, manifest)


def _comparable(key: str, value: Any) -> Any:
    """Data is the same wherever it stands."""
    return sorted(value.values()) if key == "data" and isinstance(value, dict) else value
