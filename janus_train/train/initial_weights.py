"""The weights a run starts from.

In: a folder of weights in either layout, or a hub id. Out: the configured model on the meta device, and these weights,
which the backends read one tensor at a time: no rank has a copy of the model beside the one it trains. A base that was
never a Janus model has no adaptors, image head and code embeddings: parts that are missing entirely are initialised
from the run's seed. Any other tensor that is missing, unknown or of another shape is an error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast

from janus_train.config import Config, ModelConfig, Part
from janus_train.errors import UserError
from janus_train.interop.hub import is_hub_id
from janus_train.interop.model_folder import ModelFolder, model_shapes, open_folder, open_model
from janus_train.model.build import build, code_embeddings, transformers_config
from janus_train.model.lora import magnitudes_base, plain_name
from janus_train.model.lora_weights import start_magnitudes
from janus_train.model.meta_init import RecordedInit, without_weights
from janus_train.model.parts import part_of
from janus_train.paths import resolve
from janus_train.train.run_dir import RunDir, State

NEW_PARTS: frozenset[Part] = frozenset(
    {"understanding_adaptor", "generation_adaptor", "generation_embedding", "image_head"}
)
"""Parts that a model assembled from base models may lack."""
_CODE_EMBEDDINGS, _CODEBOOK = "model.generation_embeddings.weight", "model.vqmodel.quantize.embedding.weight"


@dataclass(frozen=True)
class Start:
    """Where the weights come from, and how logs and manifest describe it."""

    folder: Path
    description: str
    moved_to: Path | None = None  # the folder's path after this run has archived it

    @property
    def recorded_path(self) -> str:
        """The path that the manifest records, where a resumed run looks."""
        return str((self.moved_to or self.folder).absolute())


def find_start(config: Config, run_dir: RunDir, state: State) -> Start:
    """Choose the start: ``init_from``, else the previous stage's result, else the model's base.

    The previous stage's result is in the run's folder or beside it. A resumed run keeps its start, unless
    ``init_from`` has changed because the weights were moved. Raises `UserError`.
    """
    run, manifest = run_dir.path, run_dir.manifest()
    if (
        state == "resume"
        and config.init_from == manifest["config"]["init_from"]
        and Path(manifest["start_folder"]).is_dir()
    ):
        return Start(Path(manifest["start_folder"]), manifest["start"])
    if config.init_from is not None:
        source = open_model(config.init_from, "init_from=").origin
        return Start(source, f"init_from {config.init_from if is_hub_id(config.init_from) else source}")
    previous_stage = config.stage - 1
    inner_path, sibling_path = run / f"stage{previous_stage}" / "final", run.parent / f"stage{previous_stage}" / "final"
    if state == "next_stage" and manifest["stage"] == previous_stage:
        is_complete = (run_dir.final / "config.json").is_file()  # a killed process may have moved it already
        return Start(
            run_dir.final if is_complete else inner_path,
            f"stage {previous_stage}'s result {inner_path}",
            moved_to=inner_path,
        )
    for source in (inner_path, sibling_path):
        if previous_stage and run.name != f"stage{previous_stage}" and (source / "config.json").is_file():
            return Start(source, f"stage {previous_stage}'s result {source}")
    if config.model.base is None:
        raise UserError(
            f"model={config.model.name} comes without a base: name the weights to start from with init_from=FOLDER"
        )
    return Start(resolve(config.model.base), f"the shipped base {config.model.base}")


def check_frozen(run_dir: RunDir, start: Start, digests: dict[Part, str], train_parts: Collection[str]) -> None:
    """Raise `UserError` if the frozen parts have changed: a checkpoint holds what trains only.

    Other ``train_parts`` than the run's, which ``resume=force`` lets through, have no checkpoint to resume from.
    """
    before = run_dir.manifest()["config"]["train_parts"]
    if set(before) != set(train_parts):
        raise UserError(
            f"{run_dir.path} trained {', '.join(before)}: a run cannot resume with other train_parts; start a new one "
            "in another output_dir, with init_from=FOLDER from this one's final/"
        )
    for part, digest in run_dir.manifest()["frozen"].items():
        if digests.get(part) != digest:
            raise UserError(
                f"{run_dir.path} was trained with another {part} than that of {start.folder}: put back the weights that "
                "the run started from, name them with init_from=FOLDER, or start a new run in another output_dir"
            )


class StartWeights(Mapping[str, torch.Tensor]):
    """The values of all tensors of the model's state by name, each read or made when it is asked for, on the CPU.

    Tensors of the folder are views of its files (`ModelFolder.tensor`), in the files' types. New ones are drawn again
    as `RecordedInit` remembers them; without ``init`` there are none.
    """

    def __init__(self, folder: ModelFolder, names: Iterable[str], init: RecordedInit | None):
        self._folder, self._init = folder, init
        self._names = list(names)
        self._new: dict[str, torch.Tensor] = {}

    def add_new(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Have the values of ``tensors``, which are on the meta device, as they were initialised."""
        self._new |= tensors

    def record(self) -> AbstractContextManager[object]:
        """Inside, the parameters of new modules are on the meta device, and `add_new` can take them."""
        return _recording(self._init)

    def __getitem__(self, name: str) -> torch.Tensor:
        base = magnitudes_base(name)
        if base is not None:
            return start_magnitudes(self[base])
        if name not in self._new:
            name = plain_name(name)
        if name not in self._new:
            return self._folder.tensor(name)
        if name == _CODE_EMBEDDINGS:
            return code_embeddings(self[_CODEBOOK])
        assert self._init is not None
        return self._init.tensor(self._new[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def _recording(init: RecordedInit | None) -> Iterator[None]:
    with without_weights(), init or nullcontext():
        yield


def load_start(
    config: Config, start: Start
) -> tuple[JanusForConditionalGeneration, StartWeights, PreTrainedTokenizerFast, list[Part]]:
    """The model in fp32 on the meta device, its weights, its tokenizer, and the list of newly initialised parts.

    The backends give the model its memory. Raises `UserError` if they do not fit.
    """
    model = config.model
    folder = open_folder(start.folder)
    tokenizer = folder.tokenizer
    special = folder.special
    folder.check_tokenizer(model.text.vocab_size)
    _check_shape(model, folder)
    expected_shapes = _check_fits(model, folder, start)
    new_parts = _new_parts(expected_shapes.keys() - folder.shapes.keys(), folder, start)
    torch.manual_seed(config.seed)
    # A draw depends on all before it, so what is new costs the draws of the whole model, a minute or two for 7 B.
    init = RecordedInit() if new_parts or config.peft is not None else None
    with _recording(init):
        janus = build(model, **vars(special))
    state = janus.state_dict()
    weights = StartWeights(folder, state, init)
    weights.add_new({name: tensor for name, tensor in state.items() if part_of(name) in new_parts})
    return janus, weights, tokenizer, new_parts


def _new_parts(missing_names: Collection[str], folder: ModelFolder, start: Start) -> list[Part]:
    """The parts that the folder lacks. Raises `UserError` if one of them is not of `NEW_PARTS`, or is there in part."""
    present_parts = {part_of(name) for name in folder.shapes}
    new_parts = sorted({part_of(name) for name in missing_names})
    for part in new_parts:
        if part not in NEW_PARTS or part in present_parts:
            names = sorted(name for name in missing_names if part_of(name) == part)
            raise UserError(
                f"{start.folder} is not complete: {len(names)} tensors of {part} are missing, the first is {names[0]}"
            )
    return new_parts


def _check_fits(model: ModelConfig, folder: ModelFolder, start: Start) -> dict[str, tuple[int, ...]]:
    """By the tensors' headers, before any room is made: a folder's own configuration may ask for petabytes.

    Returns the shapes of all tensors of the model.
    """
    try:
        expected_shapes = model_shapes(transformers_config(model, None, None, None, None))
    except UserError as error:
        raise UserError(f"{start.folder}: {error}") from None
    for name, shape in folder.shapes.items():
        if name not in expected_shapes:
            raise UserError(
                f"{start.folder} does not fit model {model.name}: it has {name}, which the model does not have"
            )
        if shape != expected_shapes[name]:
            raise UserError(
                f"{start.folder} does not fit model {model.name}: {name} is {shape}, the model takes {expected_shapes[name]}"
            )
    return expected_shapes


def _check_shape(model: ModelConfig, folder: ModelFolder) -> None:
    """Raise `UserError` for differences that no tensor's shape shows, such as the number of heads."""
    model_config, folder_config = transformers_config(model, None, None, None, None), folder.config
    keys_by_section: dict[str, set[str]] = {
        "text_config": {
            *type(model.text).model_fields,
            "model_type",
            "hidden_act",
            "rope_parameters",
            "sliding_window",
        },
        "vision_config": {*type(model.vision).model_fields, "image_size", "hidden_act"},
        "vq_config": {*type(model.vq).model_fields},
    }
    for section, keys in keys_by_section.items():
        for key in sorted(keys):
            folder_value, value = (
                getattr(getattr(config, section), key, None) for config in (folder_config, model_config)
            )
            if (
                key == "max_position_embeddings"
                and folder_value is not None
                and folder_value >= model.text.max_position_embeddings
            ):
                continue  # the official models allow longer texts than they are trained with
            if _plain(folder_value) != _plain(value):
                raise UserError(
                    f"{folder.path} does not fit model {model.name}: its {section}.{key} is {folder_value}, the model's {value}; "
                    "use model=from_folder for the shape that the folder describes"
                )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
