"""The model of a run.

In: the configuration and the run's folder. Out: the model with its trainable parts set, the weights to fill it with, and
what the manifest records about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast

from janus_train.config import PARTS, Config, Part
from janus_train.data.cached_codes import check_codes
from janus_train.data.fixed_shapes import max_shapes
from janus_train.data.recipe import Recipe
from janus_train.data.shards.vq_codes import CodesOrigin
from janus_train.interop.hub import is_hub_id
from janus_train.interop.model_folder import open_folder, open_model
from janus_train.interop.write import Extras
from janus_train.model import lora
from janus_train.model.activation_checkpointing import checkpoint_layers
from janus_train.model.chunked_cross_entropy import text_head
from janus_train.model.compile import compile_layers, should_compile
from janus_train.model.parts import is_lora, is_named, parameters_by_part, part_digests, set_trainable
from janus_train.model.precision import cast_frozen_to_bf16
from janus_train.model.vq import codes_digest
from janus_train.part_specs import pieces_of
from janus_train.train.distributed.context import Distributed
from janus_train.train.initial_weights import Start, StartWeights, check_frozen, find_start, load_start
from janus_train.train.run_dir import RunDir, RunState


@dataclass(frozen=True)
class TrainableModel:
    """A model with its trainable parts set, and what the run records about it."""

    janus: JanusForConditionalGeneration
    tokenizer: PreTrainedTokenizerFast
    start: Start
    new_parts: list[Part]
    """Parts that the start does not have, initialised from the run's seed."""
    frozen: dict[Part, str]
    """Digests of the frozen parts, and of what is frozen of those that train in pieces."""
    bf16_names: list[str]
    """Frozen weights that are kept in bf16 only."""
    is_compiled: bool
    extras: Extras
    """Files of the start beside the Janus model; on the main process only."""
    parts: dict[str, Any]
    """The manifest's table of parts (`parts_table`)."""


def parts_table(janus: JanusForConditionalGeneration, config: Config, new_parts: list[Part]) -> dict[str, Any]:
    """Per part its parameters, whether it trains, whether it is new, and its LoRA's size. ``janus`` is not sharded yet.

    Of a part that trains in pieces also these and their size.
    """
    table: dict[str, Any] = {}
    num_layers = config.model.num_layers
    for part, parameters_of_part in parameters_by_part(janus).items():
        num_adapter = sum(p.numel() for name, p in parameters_of_part if is_lora(name))
        num_parameters = sum(p.numel() for _, p in parameters_of_part) - num_adapter
        pieces = pieces_of(config.train_parts, part, num_layers.get(part))
        table[part] = {
            "parameters": num_parameters,
            "trains": part in config.train_parts or bool(pieces),
            "new": part in new_parts,
        }
        if pieces:
            trained = [p for name, p in parameters_of_part if is_named(name, config.train_parts)]
            table[part] |= {"pieces": pieces, "trained_parameters": sum(p.numel() for p in trained)}
        table[part] |= {"adapter": num_adapter} if num_adapter else {}
    return table


def load_trainable(
    config: Config, group: Distributed, run_dir: RunDir, state: RunState, recipe: Recipe
) -> tuple[TrainableModel, StartWeights]:
    """The model on the meta device, ready for training, and the weights with which the backend fills it.

    Raises `UserError` if they do not fit the configuration, the run's checkpoint or the recipe's cached codes.
    """
    if config.peft is not None:
        lora.check_usable()
    compiled = should_compile(config, group.device, group.gathers_inside_layers)
    if config.init_from is not None and is_hub_id(config.init_from):
        with group.local_main_first():
            open_model(config.init_from, "init_from=")
    start = find_start(config, run_dir, state.state)
    janus, weights, tokenizer, new_parts = load_start(config, start)
    encoder = codes_digest(weights, prefix="model.vqmodel.")
    check_codes(recipe, CodesOrigin(encoder, config.model.generation_image_size))
    frozen_parts = [part for part in PARTS if part not in config.train_parts]  # or some of their layers
    frozen = part_digests(weights, frozen_parts, without=config.train_parts)
    if state.state == "resume":
        check_frozen(run_dir, start, frozen, config.train_parts)
    if config.peft is not None:
        with weights.record():
            lora.add_lora(janus, config.peft)
        weights.add_new({name: tensor for name, tensor in janus.state_dict().items() if is_lora(name)})
    bf16_names = make_trainable(janus, config, new_parts, compiled, group)
    extras = open_folder(start.folder).extras() if group.is_main else {}
    table = parts_table(janus, config, new_parts)
    model = TrainableModel(janus, tokenizer, start, new_parts, frozen, bf16_names, compiled, extras, table)
    return model, weights


def make_trainable(
    janus: JanusForConditionalGeneration, config: Config, new_parts: list[Part], compiled: bool, group: Distributed
) -> list[str]:
    """Apply freezing, checkpointing, compilation and precision, in this order.

    Returns the weights cast to bf16.
    """
    set_trainable(janus, config.train_parts)
    checkpoint_layers(janus, config.memory.activation_checkpointing)
    text_head(janus).chunked = config.memory.text_loss == "chunked"
    if compiled:
        compile_layers(janus, max_shapes(config.batch.row_tokens))
    if config.precision == "bf16" and not group.shards_weights:  # those that do shard them in fp32
        return cast_frozen_to_bf16(janus, keep=new_parts)  # no folder has the fp32 values of new parts
    return []
