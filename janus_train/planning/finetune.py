"""Ways to fine-tune a model: what each takes per GPU, the smallest GPU on which it fits, and its command.

In: the overrides of a stage-3 run, the number of GPUs. Out: a `Way` each for all parts, for the upper layers of the
language model, for the adaptors and the image head, and for LoRA; and for what the overrides themselves choose. The
memory is that of `plan`: frozen matrices in bf16 without gradients and optimizer state, activations down to the lowest
layer that trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from janus_train.compose import compose_config
from janus_train.config import PARTS, ActivationCheckpointing, Config
from janus_train.planning.gpus import GPU, GPUS, GPUS_PER_NODE
from janus_train.planning.plan import POLICIES, Option, StagePlan, plan_stage

STAGE = 3
"""The stage that is fine-tuning."""
CARDS: tuple[GPU, ...] = tuple(sorted(GPUS.values(), key=lambda gpu: gpu.memory))
"""The known GPUs, the smallest memory first."""
ALL = tuple(part for part in PARTS if part not in ("generation_encoder", "generation_embedding"))
"""What stage 3 trains (Pro, Table 2)."""
_CHOICES = ("train_parts=", "optim.parts", "peft")
"""Overrides that choose what trains and how."""


@dataclass(frozen=True)
class Fit:
    """A way under one sharding, one row per micro-batch; ``card`` and ``option`` are None if no known GPU is large enough."""

    sharding: str
    least_bytes: float
    """With all checkpointing."""
    card: GPU | None
    """The smallest GPU on which it fits."""
    option: Option | None
    """On that GPU, with the least checkpointing that fits."""


@dataclass(frozen=True)
class Way:
    """A way to fine-tune. ``overrides``: those of its command; ``fits``: one for each sharding."""

    name: str
    overrides: tuple[str, ...]
    num_trained: float
    fits: tuple[Fit, ...]

    @property
    def best_fit(self) -> Fit | None:
        """That on the smallest GPU, and of several the one that shards least."""
        fits = [fit for fit in self.fits if fit.card is not None]
        return min(fits, key=lambda fit: fit.card.memory if fit.card else 0.0, default=None)


def ways_to_finetune(
    requested: Config, overrides: Sequence[str], num_gpus: int, cached_codes: bool, config_dir: Path | None = None
) -> tuple[Way, ...]:
    """The ways for the run ``requested``, which ``overrides`` compose."""
    shared = [override for override in overrides if not override.lstrip("+").startswith(_CHOICES)]
    lora = [override for override in overrides if override.lstrip("+").startswith("peft")] or ["+peft=lora"]
    num_layers = requested.model.text.num_hidden_layers
    choices = {
        "all parts": [] if set(compose_config(shared, config_dir).train_parts) == set(ALL) else [_train_parts(*ALL)],
        **{
            f"image head, upper {num_layers - first} layers": [
                _train_parts("image_head", f"language_model.layers.{first}-{num_layers - 1}")
            ]
            for first in (num_layers // 2, 3 * num_layers // 4)
        },
        "adaptors, image head": [_train_parts("understanding_adaptor", "generation_adaptor", "image_head")],
        "LoRA": lora,
    }
    configs = {name: compose_config([*shared, *words], config_dir) for name, words in choices.items()}
    ways = [_way(name, [*shared, *choices[name]], config, num_gpus, cached_codes) for name, config in configs.items()]
    if all(_what_trains(config) != _what_trains(requested) for config in configs.values()):
        ways.insert(0, _way("as requested", overrides, requested, num_gpus, cached_codes))
    return tuple(ways)


def _train_parts(*names: str) -> str:
    return f"train_parts=[{','.join(names)}]"


def _what_trains(config: Config) -> object:
    return set(config.train_parts), config.peft


def _way(name: str, overrides: Sequence[str], config: Config, num_gpus: int, cached_codes: bool) -> Way:
    lora = f" of rank {config.peft.rank}" if name == "LoRA" and config.peft else ""
    config = config.model_copy(update={"batch": config.batch.model_copy(update={"micro_rows": 1})})
    stage = plan_stage(config, CARDS[-1], num_gpus, 1.0, "", cached_codes, most_micro_rows=1)
    fits = tuple(_fit(stage, sharding) for sharding in shardings(stage.num_busy_gpus))
    return Way(name + lora, tuple(overrides), stage.sizes.num_trained, fits)


def shardings(num_gpus: int) -> tuple[str, ...]:
    """The ways to shard that differ on so many GPUs."""
    if num_gpus == 1:
        return ("ddp",)
    return ("ddp", "zero1", "zero2", "zero3", "fsdp2", *(["hsdp"] if num_gpus > GPUS_PER_NODE else []))


def _fit(stage: StagePlan, sharding: str) -> Fit:
    options: dict[ActivationCheckpointing, Option] = {policy: stage.option(sharding, policy, 1) for policy in POLICIES}
    least_bytes = min(option.total for option in options.values())
    card = next((card for card in CARDS if least_bytes <= card.memory), None)
    best_option = next((o for o in options.values() if card is not None and o.total <= card.memory), None)
    return Fit(sharding, least_bytes, card, best_option)
