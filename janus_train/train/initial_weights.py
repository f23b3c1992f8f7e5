"""What a run starts from: a folder of weights in either layout, or a hub id, which has to fit the configured model.

Parts that the folder lacks as a whole (the adaptors, the image head and the code embeddings of a base that never was a
Janus) are initialised by the run's seed; anything else that is missing, left over or of another shape is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast

from janus_train.config import Config, ModelConfig, Part
from janus_train.errors import UserError
from janus_train.interop.hub import is_hub_id, local_folder
from janus_train.interop.model_folder import ModelFolder, open_folder
from janus_train.model.build import build, init_generation_embeddings, transformers_config
from janus_train.model.parts import part_of
from janus_train.paths import resolve
from janus_train.train.run_dir import RunDir, State

NEW_PARTS: frozenset[Part] = frozenset(
    {"understanding_adaptor", "generation_adaptor", "generation_embedding", "image_head"}
)
"""Parts that a base of ready-made pieces does not have yet."""


@dataclass(frozen=True)
class Start:
    """Where the weights come from, and how the run says so."""

    folder: Path
    description: str
    moved_to: Path | None = None  # where the folder will be once this run has begun, if it moves

    @property
    def recorded_path(self) -> str:
        """What a continuation looks for."""
        return str((self.moved_to or self.folder).absolute())


def find_start(config: Config, run_dir: RunDir, state: State) -> Start:
    """``init_from``; else the result of the stage before, in the run's folder or beside it; else the model's base.

    A continuation starts from what the run started from, unless ``init_from`` has changed (the weights were moved).
    """
    run, begun = run_dir.path, run_dir.manifest()
    if state == "resume" and config.init_from == begun["config"]["init_from"] and Path(begun["start_folder"]).is_dir():
        return Start(Path(begun["start_folder"]), begun["start"])
    if config.init_from is not None:
        source = open_folder(local_folder(config.init_from, "init_from=")).path
        return Start(source, f"init_from {config.init_from if is_hub_id(config.init_from) else source}")
    before = config.stage - 1
    inside, beside = run / f"stage{before}" / "final", run.parent / f"stage{before}" / "final"
    if state == "next_stage" and begun["stage"] == before:
        whole = (run_dir.final / "config.json").is_file()  # not if a kill interrupted the move
        return Start(run_dir.final if whole else inside, f"stage {before}'s result {inside}", moved_to=inside)
    for source in (inside, beside):
        if before and run.name != f"stage{before}" and (source / "config.json").is_file():
            return Start(source, f"stage {before}'s result {source}")
    if config.model.base is None:
        raise UserError(
            f"model={config.model.name} comes without a base: name the weights to start from with init_from=FOLDER"
        )
    return Start(resolve(config.model.base), f"the shipped base {config.model.base}")


def check_frozen(run_dir: RunDir, start: Start, digests: dict[Part, str]) -> None:
    """A checkpoint holds the trained parts alone: the frozen ones have to be those that it was trained beside."""
    for part, was in run_dir.manifest()["frozen"].items():
        if digests.get(part) != was:
            raise UserError(
                f"{run_dir.path} was trained beside another {part} than that of {start.folder}: put back what the run "
                "started from, name it with init_from=FOLDER, or begin a new run in another output_dir"
            )


def load_start(
    config: Config, start: Start
) -> tuple[JanusForConditionalGeneration, PreTrainedTokenizerFast, list[Part]]:
    """The model in fp32, its tokenizer, and the parts that were initialised anew. Raises `UserError` if it does not fit."""
    model = config.model
    folder = open_folder(start.folder)
    tokenizer = folder.tokenizer
    special = folder.special
    folder.check_tokenizer(model.text.vocab_size)
    _check_shape(model, folder)
    torch.manual_seed(config.seed)
    janus = build(model, **vars(special))
    have = dict(janus.state_dict())
    loaded: set[str] = set()
    for name, tensor in folder.tensors():
        if name not in have:
            raise UserError(
                f"{start.folder} does not fit model {model.name}: it has {name}, which the model does not have"
            )
        if tensor.shape != have[name].shape:
            raise UserError(
                f"{start.folder} does not fit model {model.name}: {name} is {tuple(tensor.shape)}, the model takes {tuple(have[name].shape)}"
            )
        have[name].copy_(tensor)
        loaded.add(name)
    new: list[Part] = []
    for part in sorted({part_of(name) for name in have.keys() - loaded}):
        names = {name for name in have if part_of(name) == part}
        if part not in NEW_PARTS or names & loaded:
            missing = sorted(names - loaded)
            raise UserError(
                f"{start.folder} is not complete: {len(missing)} tensors of {part} are missing, the first is {missing[0]}"
            )
        new.append(part)
    if "generation_embedding" in new:
        init_generation_embeddings(janus)
    return janus, tokenizer, new


def _check_shape(model: ModelConfig, folder: ModelFolder) -> None:
    """Differences that no tensor's shape shows, such as the number of heads."""
    wanted, found = transformers_config(model, None, None, None, None), folder.config
    checked: dict[str, set[str]] = {
        "text_config": {*type(model.text).model_fields, "model_type", "rope_parameters", "sliding_window"},
        "vision_config": {*type(model.vision).model_fields, "image_size", "hidden_act"},
        "vq_config": {*type(model.vq).model_fields},
    }
    for section, keys in checked.items():
        for key in sorted(keys):
            there, here = (getattr(getattr(config, section), key, None) for config in (found, wanted))
            if key == "max_position_embeddings" and there is not None and there >= model.text.max_position_embeddings:
                continue  # the official models were made for more than they are trained with
            if _plain(there) != _plain(here):
                raise UserError(
                    f"{folder.path} does not fit model {model.name}: its {section}.{key} is {there}, the model's {here}; "
                    "model=from_folder takes a model as its folder describes it"
                )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
